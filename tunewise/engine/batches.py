"""Rows of token ids become left-padded batches, in an order that is a pure function of (seed, epoch).

Legend: B rows, T columns (the longest row with its prefix), K trailing columns that hold a label.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from tunewise.data.encode import Encoded

IGNORED = -100
"""The label of a token that carries no loss (cross_entropy's ignore_index)."""

FORWARD_COST, FORWARD_COST_ELSEWHERE = 64, 2048
"""What a forward and backward of its own costs, in tokens of padding, on a CPU and on a device that needs many."""


@dataclass(frozen=True)
class Batch:
    """Rows padded on the left, so that their answers align on the right."""

    input_ids: Tensor
    """(B, T) token ids; ids from the vocabulary's size on are virtual tokens."""
    attention_mask: Tensor
    """(B, T) 1 where a token stands, 0 on padding."""
    position_ids: Tensor
    """(B, T) each row counts from 0 at its first token; 0 on padding."""
    labels: Tensor
    """(B, T) the id to predict *at* this column (from the column before), IGNORED where nothing is."""
    n_labels: int
    n_label_columns: int
    """K: labels stand in the last K columns only."""
    n_tokens: int
    """Tokens that are no padding, the prefix included."""
    ids: list[str]
    """The examples' ids, row by row."""

    def to(self, device: torch.device) -> "Batch":
        """The same batch with its tensors on `device`."""
        if self.input_ids.device == device:
            return self
        tensors = (self.input_ids, self.attention_mask, self.position_ids, self.labels)
        moved = [tensor.to(device, non_blocking=True) for tensor in tensors]
        return Batch(*moved, self.n_labels, self.n_label_columns, self.n_tokens, self.ids)


@dataclass(frozen=True)
class LabelledBatch:
    """Rows padded on the right."""

    inputs: dict[str, Tensor]
    """What the model's forward takes: input_ids (B, T) and attention_mask, or pixel_values (B, channels, ...)."""
    labels: Tensor
    """(B,) classes or values, (B, T) tags, or (B, U) the ids of answers; IGNORED where nothing is told."""
    n_labels: int
    n_tokens: int
    """Tokens that are no padding, the prefix included; images count as one."""
    ids: list[str]
    """The examples' ids, row by row."""

    def to(self, device: torch.device) -> Self:
        """The same batch with its tensors on `device`."""
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in self.inputs.items()}
        return replace(self, inputs=moved, labels=self.labels.to(device, non_blocking=True))


def collate(rows: Sequence[Encoded], pad_id: int, prefix_ids: Sequence[int] = ()) -> Batch:
    """Pad `rows` on the left to one length; `prefix_ids` stand directly before each row's own tokens.

    A row's first own token never carries loss: without a prefix nothing predicts it, and with one the same tokens
    have to count, or methods with and without a prefix would be scored on different tokens.
    """
    prefix = list(prefix_ids)
    width = len(prefix) + max(len(row.ids) for row in rows)
    input_ids, mask, positions, labels = [], [], [], []
    n_labels, first_label, n_tokens = 0, width, 0
    for row in rows:
        n_real = len(prefix) + len(row.ids)
        padding = width - n_real
        own_labels = (IGNORED, *row.labels[1:])
        n_labels += len(own_labels) - own_labels.count(IGNORED)
        n_tokens += n_real
        first = next((i for i, label in enumerate(own_labels) if label != IGNORED), len(own_labels))
        first_label = min(first_label, padding + len(prefix) + first)
        input_ids.append([pad_id] * padding + prefix + list(row.ids))
        mask.append([0] * padding + [1] * n_real)
        positions.append([0] * padding + list(range(n_real)))
        labels.append([IGNORED] * (padding + len(prefix)) + list(own_labels))
    return Batch(
        torch.tensor(input_ids),
        torch.tensor(mask),
        torch.tensor(positions),
        torch.tensor(labels),
        n_labels,
        width - first_label,
        n_tokens,
        [row.id for row in rows],
    )


def padded(rows: Sequence[Encoded], pad_id: int, prefix_ids: Sequence[int]) -> tuple[dict[str, Tensor], int]:
    """Ids, mask and segments (where there are any) of rows behind a prefix, and how many tokens are no padding."""
    ids = [(*prefix_ids, *row.ids) for row in rows]
    inputs = {
        "input_ids": rectangle(ids, pad_id),
        "attention_mask": rectangle([(1,) * len(row) for row in ids], 0),
    }
    if any(row.segments for row in rows):
        inputs["token_type_ids"] = rectangle([(0,) * len(prefix_ids) + row.segments for row in rows], 0)
    return inputs, sum(map(len, ids))


def rectangle(rows: Sequence[Sequence[int | float]], padding: int) -> Tensor:
    """Rows of unlike length as one tensor, padded on the right."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[padding] * (width - len(row))] for row in rows])


def plain(name: str, ids: Sequence[int], n_scored: int) -> Encoded:
    """A row made of token ids alone, whose last `n_scored` tokens are labels."""
    start = len(ids) - n_scored
    return Encoded(name, tuple(ids), (IGNORED,) * start + tuple(ids[start:]), start, False)


def order(n: int, seed: int | str, epoch: int) -> list[int]:
    """A permutation of range(n): a function of (seed, epoch) and of nothing else, on every platform."""
    indices = list(range(n))
    random.Random(f"order {seed} {epoch}").shuffle(indices)
    return indices


def epoch_batches(n: int, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The row numbers of each batch of one epoch, drawn without regard to their lengths."""
    shuffled = order(n, seed, epoch)
    return [shuffled[i : i + batch_size] for i in range(0, n, batch_size)]


def buckets(lengths: Sequence[int], forward_cost: int) -> list[list[int]]:
    """Numbers of the rows of a batch, apart by length where that saves more padding than forwards of their own cost.

    Of all ways to cut the rows, ranked by length, the one with the fewest columns × rows + forwards × `forward_cost`.
    """
    ranked = sorted(range(len(lengths)), key=lambda row: lengths[row], reverse=True)
    cheapest: list[tuple[int, int]] = [(0, 0)]  # of the first n rows: the cost, and where the last bucket begins
    for stop in range(1, len(ranked) + 1):
        options = ((cheapest[i][0] + lengths[ranked[i]] * (stop - i) + forward_cost, i) for i in range(stop))
        cheapest.append(min(options))
    found, stop = [], len(ranked)
    while stop:
        start = cheapest[stop][1]
        found.append(ranked[start:stop])
        stop = start
    return found[::-1]


def by_length(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Row numbers in batches of like length, the longest first (a batch that does not fit fails at once)."""
    ranked = sorted(range(len(lengths)), key=lambda index: lengths[index], reverse=True)
    return [ranked[i : i + batch_size] for i in range(0, len(ranked), batch_size)]
