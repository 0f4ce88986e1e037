"""Ids of many texts at once: what the tokenizer's own call gives, without what it spends on each text beside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

FEW = 16
"""As many texts go through the tokenizer's own call, to see that the core says the same."""


def ids_of(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Ids of each text alone, without begin and end tokens, as `tokenizer(texts, add_special_tokens=False)` has them.

    That call makes offsets, masks and types of every text as well. The core of a fast tokenizer is asked for ids only;
    where the first texts come out otherwise (a class that does more than its core), the call is taken for all.
    """
    few = list(texts[:FEW])
    told = _called(few, tokenizer)  # which also leaves the core without truncation and padding
    rest, core = list(texts[FEW:]), _core(tokenizer)
    if not rest:
        return told
    if core is None or [found.ids for found in core.encode_batch_fast(few, add_special_tokens=False)] != told:
        return told + _called(rest, tokenizer)
    return told + [found.ids for found in core.encode_batch_fast(rest, add_special_tokens=False)]


def _called(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []


def _core(tokenizer: PreTrainedTokenizerBase) -> Tokenizer | None:
    """The Rust tokenizer inside; None of one that is written in Python."""
    return tokenizer.backend_tokenizer if tokenizer.is_fast else None
