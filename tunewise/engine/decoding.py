"""Greedy decoding in batches."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tunewise.engine.prefill import Prefilled, prefill


@torch.no_grad()
def greedy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    prefix_ids: Sequence[int] = (),
    stop: str = "",
    batch_size: int = 16,
) -> list[str]:
    """The most probable continuation of each prompt (token ids), as text, in the order given.

    An answer ends before the first end-of-sequence token, before the first `stop` text (where one is given), or
    after `max_new_tokens`.
    """
    answers = [""] * len(prompts)
    pad_id = tokenizer.pad_token_id
    for read in prefill(model, prompts, pad_id=pad_id, prefix_ids=prefix_ids, batch_size=batch_size):
        for i, text in zip(read.indices, _decode(model, tokenizer, read, max_new_tokens, stop), strict=True):
            answers[i] = text
    return answers


def _decode(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, read: Prefilled, max_new_tokens: int, stop: str
) -> list[str]:
    ends = _end_ids(model, tokenizer)
    n_rows = len(read.indices)
    generated: list[list[int]] = [[] for _ in range(n_rows)]
    texts = [""] * n_rows
    running = set(range(n_rows))
    logits, mask, positions, cache = read.logits, read.mask, read.positions, read.cache
    for number in range(max_new_tokens):
        chosen = logits.argmax(dim=-1)
        for row, token in enumerate(chosen.tolist()):
            if row not in running:
                continue
            if token in ends:
                running.discard(row)
                continue
            generated[row].append(token)
            texts[row] = tokenizer.decode(generated[row], skip_special_tokens=True)
            if stop and stop in texts[row]:
                texts[row] = texts[row][: texts[row].index(stop)]
                running.discard(row)
        if not running or number == max_new_tokens - 1:
            break
        mask = torch.cat([mask, mask.new_ones(n_rows, 1)], dim=1)
        positions = positions + 1
        out = model(
            input_ids=chosen[:, None],
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits, cache = out.logits[:, -1], out.past_key_values
    return texts


def _end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The ids that end an answer: the tokenizer's, and those the model's own generation settings name."""
    named = model.generation_config.eos_token_id if model.generation_config is not None else None
    own = named if isinstance(named, list) else [named]
    return {i for i in [tokenizer.eos_token_id, *own] if i is not None}
