"""Greedy decoding in batches."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tunewise.engine.batches import by_length, collate, plain


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
    for indices in by_length([len(prompt) for prompt in prompts], batch_size):
        texts = _decode_batch(model, tokenizer, [prompts[i] for i in indices], max_new_tokens, tuple(prefix_ids), stop)
        for i, text in zip(indices, texts, strict=True):
            answers[i] = text
    return answers


def _decode_batch(model, tokenizer, prompts, max_new_tokens, prefix_ids, stop) -> list[str]:
    device = model.device
    ends = _end_ids(model, tokenizer)
    batch = collate([plain("", prompt, 0) for prompt in prompts], tokenizer.pad_token_id, prefix_ids).to(device)
    step_ids, mask, positions, cache = batch.input_ids, batch.attention_mask, batch.position_ids, None
    generated: list[list[int]] = [[] for _ in prompts]
    texts = [""] * len(prompts)
    running = set(range(len(prompts)))
    for _ in range(max_new_tokens):
        out = model(
            input_ids=step_ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = out.past_key_values
        chosen = out.logits[:, -1].argmax(dim=-1)
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
        if not running:
            break
        step_ids = chosen[:, None]
        mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=1)
        positions = positions[:, -1:] + 1
    return texts


def _end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The ids that end an answer: the tokenizer's, and those the model's own generation settings name."""
    named = model.generation_config.eos_token_id if model.generation_config is not None else None
    own = named if isinstance(named, list) else [named]
    return {i for i in [tokenizer.eos_token_id, *own] if i is not None}
