"""Log-probabilities of given answers, and the loss of whole documents."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from tunewise.engine.batches import by_length, collate, plain
from tunewise.engine.loss import row_losses, wide


@torch.no_grad()
def option_log_probabilities(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    options: Sequence[Sequence[Sequence[int]]],
    *,
    pad_id: int,
    prefix_ids: Sequence[int] = (),
    batch_size: int = 32,
) -> list[list[float]]:
    """For each prompt, the log-probability (nats, summed over tokens) of each of its options' token ids after it.

    Where every option is one token, one forward a prompt serves all its options: they are read off the same logits.
    """
    if all(len(option) == 1 for row in options for option in row):
        return _first_token(model, prompts, options, pad_id, prefix_ids, batch_size)
    rows, owners = [], []
    for number, (prompt, row) in enumerate(zip(prompts, options, strict=True)):
        rows += [plain("", [*prompt, *option], len(option)) for option in row]
        owners += [number] * len(row)
    scores: list[list[float]] = [[] for _ in prompts]
    for owner, loss in zip(owners, _losses(model, rows, pad_id, prefix_ids, batch_size), strict=True):
        scores[owner].append(-loss)
    return scores


def _first_token(model, prompts, options, pad_id, prefix_ids, batch_size) -> list[list[float]]:
    scores: list[list[float]] = [[] for _ in prompts]
    device = model.device
    for indices in by_length([len(prompt) for prompt in prompts], batch_size):
        batch = collate([plain("", prompts[i], 0) for i in indices], pad_id, prefix_ids).to(device)
        logits = model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            use_cache=False,
            logits_to_keep=1,
        ).logits[:, -1]
        log_probabilities = wide(logits).log_softmax(dim=-1).cpu()
        for row, i in enumerate(indices):
            scores[i] = log_probabilities[row, [option[0] for option in options[i]]].tolist()
    return scores


@torch.no_grad()
def sequence_losses(
    model: PreTrainedModel,
    documents: Sequence[Sequence[int]],
    *,
    pad_id: int,
    prefix_ids: Sequence[int] = (),
    batch_size: int = 16,
) -> list[tuple[float, int]]:
    """For each document, the loss in nats summed over every token but its first, and the number of those tokens."""
    rows = [plain("", ids, max(0, len(ids) - 1)) for ids in documents]
    losses = _losses(model, rows, pad_id, prefix_ids, batch_size)
    return [(loss, max(0, len(ids) - 1)) for loss, ids in zip(losses, documents, strict=True)]


def _losses(model, rows, pad_id, prefix_ids, batch_size) -> list[float]:
    """The summed loss of each row, batched by length, returned in the order given."""
    losses = [0.0] * len(rows)
    device = model.device
    for indices in by_length([len(row.ids) for row in rows], batch_size):
        batch = collate([rows[i] for i in indices], pad_id, prefix_ids)
        if batch.n_labels == 0:
            continue
        for i, loss in zip(indices, row_losses(model, batch.to(device)).tolist(), strict=True):
            losses[i] = loss
    return losses
