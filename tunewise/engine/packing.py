"""Rows behind one another in one row of tokens, without padding; attention keeps them apart.

Legend: T tokens of all rows with their prefixes, K tokens that carry a label, R tokens that the last layer makes
something of, S segments: the rows, and at the end, where T would be no multiple of ROUND, one of padding.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, repeat
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from tunewise.data.encode import Encoded
from tunewise.engine import loss
from tunewise.engine.attention import attend, why_no_attention
from tunewise.engine.batches import IGNORED, collate
from tunewise.engine.criterion import PLAIN, Criterion
from tunewise.engine.disentangled import disentangled, is_disentangled
from tunewise.engine.fused import fused
from tunewise.engine.last_layer import read_at, read_places
from tunewise.engine.native.attention import Pattern

NAME = "tunewise_packed"
SAME = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.01}
"""How far a loss may lie from the one of the row alone: rounding, where sums are taken in another order."""
APART = 1e-6
"""How far it may move when the row beside it is another one, in any precision: the same numbers are multiplied."""
ROUND = 32
"""oneDNN prepares a product anew for every new number of tokens; so there are fewer of them."""


@dataclass(frozen=True)
class PackedBatch:
    """Rows in one row."""

    input_ids: Tensor
    """(1, T) token ids; ids from the vocabulary's size on are virtual tokens."""
    position_ids: Tensor
    """(1, T) each segment counts from 0."""
    starts: Tensor
    """(S + 1,) int32, the first token of each segment, and T; on the CPU, wherever the others are."""
    predicting: Tensor
    """(K,) where the head is needed: the token before each label."""
    labels: Tensor
    """(K,) the ids to be predicted."""
    rows: Tensor
    """(K,) the number of the row each label belongs to."""
    n_labels: int
    n_tokens: int
    """Tokens that are no padding, prefixes included."""
    ids: list[str]
    read: Tensor
    """(R,) where the last layer is needed: those predicting, and others up to a multiple of ROUND."""

    def to(self, device: torch.device) -> "PackedBatch":
        """The same batch with its tensors on `device`."""
        names = ("input_ids", "position_ids", "predicting", "labels", "rows", "read")
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in names})


def pack(rows: Sequence[Encoded], pad_id: int, prefix_ids: Sequence[int] = ()) -> PackedBatch:
    """One batch of these rows, each behind `prefix_ids`. As in `collate`, a row's first own token carries no loss."""
    n_rows, n_prefix = len(rows), len(prefix_ids)
    own = np.fromiter((len(row.ids) for row in rows), np.int64, n_rows)
    n_own = int(own.sum())
    labels = np.fromiter(chain.from_iterable(row.labels for row in rows), np.int64, n_own)
    of_row = np.repeat(np.arange(n_rows), own)
    labels[own.cumsum() - own] = IGNORED
    told = np.flatnonzero(labels != IGNORED)
    predicting = told + n_prefix * (of_row[told] + 1) - 1
    padding = -(n_own + n_prefix * n_rows) % ROUND
    lengths = np.append(own + n_prefix, padding) if padding else own + n_prefix
    starts = np.append(0, lengths.cumsum())
    n = n_own + n_prefix * n_rows + padding
    behind_one_another = chain.from_iterable(chain(prefix_ids, row.ids) for row in rows)
    ids = np.fromiter(chain(behind_one_another, repeat(pad_id, padding)), np.int64, n)
    return PackedBatch(
        torch.from_numpy(ids)[None],
        torch.from_numpy(np.arange(n) - np.repeat(starts[:-1], lengths))[None],
        torch.from_numpy(starts.astype(np.int32)),
        torch.from_numpy(predicting),
        torch.from_numpy(labels[told]),
        torch.from_numpy(of_row[told]),
        len(told),
        n - padding,
        [row.id for row in rows],
        torch.tensor(read_places(predicting.tolist(), n, ROUND), dtype=torch.long),
    )


def packed_losses(model: PreTrainedModel, batch: PackedBatch, criterion: Criterion = PLAIN) -> Tensor:
    """The loss in nats of each label, (K,), at least float32; inside `packed_attention` only."""
    with read_at(model, batch.read):
        logits = model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            use_cache=False,
            logits_to_keep=batch.predicting,
            segment_starts=batch.starts,
        ).logits
    return criterion.label_losses(logits.squeeze(0), batch.labels)


@contextmanager
def packed_attention(model: PreTrainedModel) -> Iterator[None]:
    """Inside the block `model` attends within the segments that it is told as `segment_starts`, on fused kernels.

    Raises TypeError for a model that writes its attention out instead of asking transformers for a function.
    """
    is_told = not is_disentangled(model)  # others are asked through transformers' interface
    parts = [module for module in model.modules() if is_told and isinstance(module, PreTrainedModel)]
    if not all(part._can_set_attn_implementation() for part in parts):
        raise TypeError("its attention is written out, and cannot be told of segments")
    before = [part.config._attn_implementation for part in parts]
    try:
        for part in parts:
            _set_attention(part, NAME)
        with fused(model), disentangled(model):
            yield
    finally:
        for part, name in zip(parts, before, strict=True):
            _set_attention(part, name)


def _set_attention(part: PreTrainedModel, name: str) -> None:
    """transformers 5.17 does not hand it on to stacks that have configurations of their own."""
    if part.config._attn_implementation != name:
        part.set_attn_implementation(name)


def _attend(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **told: Any
) -> tuple[Tensor, None]:
    """transformers' attention function: query (1, H, T, D), key and value (1, G, T, D) -> (1, T, H, D).

    A model that did not hand on its `segment_starts`, or the `reader` that knows them, fails here with a TypeError, and
    so does one with a bias by position that its reader knows nothing of.
    """
    starts, reader = told.get("segment_starts"), told.get("reader")
    if starts is None and reader is None:
        raise TypeError("its attention is not told the segments")
    if told.get("s_aux") is not None:
        raise TypeError("its attention has sinks, learned scores that stand beside those of tokens")
    q, k, v = (tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value))
    dropout, is_causal = told.get("dropout") or 0.0, told.get("is_causal")
    pattern = Pattern(
        scale=told.get("scaling") or query.shape[-1] ** -0.5,
        is_causal=module.is_causal if is_causal is None else is_causal,
        window=told.get("sliding_window", vars(module).get("sliding_window")) or 0,  # qwen2_moe tells its mask alone
        softcap=told.get("softcap") or 0.0,
        dropout=dropout,
        seed=int(torch.randint(2**31, ())) if dropout else 0,
    )
    bias = {} if told.get("position_bias") is None else {"bias": told["position_bias"]}
    if reader is not None:
        return reader.attend(module, q, k, v, pattern, **bias)[None], None
    if bias:
        raise TypeError("its attention adds a bias by position")
    return attend(q, k, v, starts, pattern)[None], None


def _no_mask(*_: object, **__: object) -> None:
    """The segments say all that a mask would."""


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, _no_mask)


@torch.no_grad()
def why_not_packed(model: PreTrainedModel, prefix_ids: Sequence[int] = ()) -> str:
    """Why this decoder, with what is attached to it, cannot be run packed; "" where it can.

    Tried and not guessed, as a family may ignore what it is told: two rows are run in one, and the second has to come
    out as it does alone, and exactly as it does beside another first.
    """
    if reason := why_no_attention(model):
        return reason
    generator = torch.Generator().manual_seed(0)
    n = min(64, model.get_input_embeddings().weight.shape[0])
    tokens = [tuple(torch.randint(n, (length,), generator=generator).tolist()) for length in (5, 9)]
    tokens.append(tokens[0][::-1])
    rows = [Encoded("", ids, (IGNORED,) * (len(ids) - 1) + ids[-1:], len(ids) - 1, truncated=False) for ids in tokens]
    was_training = model.training
    model.eval()
    try:
        with packed_attention(model):
            batches = [pack([rows[first], rows[1]], 0, prefix_ids).to(model.device) for first in (0, 2)]
            packed, beside = (packed_losses(model, batch)[-1] for batch in batches)
    except (TypeError, ValueError, RuntimeError) as error:
        return f"{type(model).__name__} does not run packed: {error}"
    finally:
        model.train(was_training)
    alone = loss.row_losses(model, collate(rows[1:2], 0, prefix_ids).to(model.device))[0]
    return why_not_the_same(model, "rows", packed, beside, alone)


def why_not_the_same(model: PreTrainedModel, what: str, packed: Tensor, beside: Tensor, alone: Tensor) -> str:
    """What is wrong with what `model` says of a row behind another one (`packed`), behind a third one (`beside`) and by
    itself (`alone`); "" where nothing is. `what` are its rows called."""
    name, largest = type(model).__name__, alone.abs().max().clamp(min=1e-6)
    if not float((packed - beside).abs().max() / largest) <= APART:
        return f"{name} does not keep packed {what} apart"
    distance = float((packed - alone).abs().max() / largest)
    return "" if distance < SAME[model.dtype] else f"{name} packs {what} to another answer ({distance:.2g})"
