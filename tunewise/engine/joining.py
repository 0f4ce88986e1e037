"""Batches of several lanes as one batch, and which part of it is whose.

Legend: as in the batches: B rows, T columns or tokens, K columns or tokens with labels.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tunewise.engine.batches import IGNORED, Batch, LabelledBatch
from tunewise.engine.criterion import minimising, of_lanes
from tunewise.engine.last_layer import wanted_first
from tunewise.engine.objectives import Objective
from tunewise.engine.packed_classifier import PackedTexts
from tunewise.engine.packed_writing import PackedPairs
from tunewise.engine.packing import ROUND, PackedBatch
from tunewise.methods.alone import CannotShare
from tunewise.methods.lanes import Lanes, Part, Parts


def join(batches: Sequence[Any], lanes: Sequence[int], with_dropout: Sequence[bool], pad_id: int) -> tuple[Any, Parts]:
    """One batch of those of several lanes, in their order, and the parts; all are of one kind.

    Padding is added once, but for lanes `with_dropout`: their masks are drawn in the shape that the batch has alone.
    Raises CannotShare for kinds of batches that cannot be joined.
    """
    kinds = {type(batch) for batch in batches}
    if kinds == {PackedBatch}:
        return _packed(batches, lanes, with_dropout, pad_id)
    if kinds == {PackedTexts}:
        return _packed_texts(batches, lanes)
    if kinds == {PackedPairs}:
        return _packed_pairs(batches, lanes, pad_id)
    if kinds == {Batch}:
        return _left_padded(batches, lanes, pad_id)
    if kinds == {LabelledBatch}:
        return _right_padded(batches, lanes, pad_id)
    raise CannotShare(f"batches of the kind {' and '.join(sorted(kind.__name__ for kind in kinds))} are not joined")


def _packed(
    batches: Sequence[PackedBatch], lanes: Sequence[int], with_dropout: Sequence[bool], pad_id: int
) -> tuple[PackedBatch, Parts]:
    cut = [
        batch if keeps_padding else _without_padding(batch)
        for batch, keeps_padding in zip(batches, with_dropout, strict=True)
    ]
    sizes = [batch.input_ids.shape[1] for batch in cut]
    firsts = [0, *accumulate(sizes)]
    first_rows = [0, *accumulate(len(batch.ids) for batch in cut)]
    padding = -firsts[-1] % ROUND
    starts = [batch.starts[:-1] + first for batch, first in zip(cut, firsts)]
    read = torch.cat([batch.read + first for batch, first in zip(cut, firsts)]).tolist()
    ends = [firsts[-1], *([firsts[-1] + padding] if padding else [])]
    joined = PackedBatch(
        functional.pad(torch.cat([batch.input_ids for batch in cut], dim=1), (0, padding), value=pad_id),
        torch.cat([*(batch.position_ids for batch in cut), torch.arange(padding)[None]], dim=1),
        torch.cat([*starts, torch.tensor(ends, dtype=torch.int32)]),
        torch.cat([batch.predicting + first for batch, first in zip(cut, firsts)]),
        torch.cat([batch.labels for batch in cut]),
        torch.cat([batch.rows + first for batch, first in zip(cut, first_rows)]),
        sum(batch.n_labels for batch in cut),
        sum(batch.n_tokens for batch in cut),
        [row_id for batch in cut for row_id in batch.ids],
        torch.tensor(wanted_first(read, firsts[-1] + padding, ROUND), dtype=torch.long),
    )
    parts = [
        Part(lane, size, len(batch.labels), read_size=len(batch.read))
        for lane, size, batch in zip(lanes, sizes, cut, strict=True)
    ]
    return joined, Parts(1, tuple(parts))


def _without_padding(batch: PackedBatch) -> PackedBatch:
    n = batch.n_tokens
    starts = batch.starts[: len(batch.ids) + 1]
    return replace(
        batch,
        input_ids=batch.input_ids[:, :n],
        position_ids=batch.position_ids[:, :n],
        starts=starts,
        read=batch.predicting,
    )


def _packed_texts(batches: Sequence[PackedTexts], lanes: Sequence[int]) -> tuple[PackedTexts, Parts]:
    """With the padding of each, so that every lane's is drawn in the shape that it has alone."""
    sizes = [batch.inputs["input_ids"].shape[1] for batch in batches]
    firsts = [0, *accumulate(sizes)]
    first_texts = [0, *accumulate(len(batch.ids) for batch in batches)]
    starts = [batch.inputs["segment_starts"][:-1] + first for batch, first in zip(batches, firsts)]
    end = torch.tensor(firsts[-1:], dtype=torch.int32)
    inputs = {name: torch.cat(tensors, dim=-1) for name, tensors in _inputs(batches).items()}
    joined = PackedTexts(
        {**inputs, "segment_starts": torch.cat([*starts, end])},
        torch.cat([batch.labels for batch in batches]),
        sum(batch.n_labels for batch in batches),
        sum(batch.n_tokens for batch in batches),
        [row_id for batch in batches for row_id in batch.ids],
        torch.cat([batch.pooled + first for batch, first in zip(batches, firsts)]),
        torch.cat([batch.texts + first for batch, first in zip(batches, first_texts)]),
        torch.cat([batch.read + first for batch, first in zip(batches, firsts)]),
    )
    parts = [
        Part(lane, size, len(batch.pooled), read_size=len(batch.read))
        for lane, size, batch in zip(lanes, sizes, batches, strict=True)
    ]
    return joined, Parts(1, tuple(parts))


def _packed_pairs(batches: Sequence[PackedPairs], lanes: Sequence[int], pad_id: int) -> tuple[PackedPairs, Parts]:
    """With the padding of each; the row of answers is never as long as that of prompts, so that they are told apart."""
    inputs = {name: torch.cat(tensors, dim=1) for name, tensors in _inputs(batches).items()}
    labels = torch.cat([batch.labels for batch in batches], dim=1)
    n_read = [batch.inputs["input_ids"].shape[1] for batch in batches]
    n_written = [batch.labels.shape[1] for batch in batches]
    more = ROUND if sum(n_read) == sum(n_written) else 0
    first_rows = [0, *accumulate(len(batch.ids) for batch in batches)]
    inputs["decoder_input_ids"] = functional.pad(inputs["decoder_input_ids"], (0, more), value=pad_id)
    joined = PackedPairs(
        inputs,
        functional.pad(labels, (0, more), value=IGNORED),
        sum(batch.n_labels for batch in batches),
        sum(batch.n_tokens for batch in batches),
        [row_id for batch in batches for row_id in batch.ids],
        _starts([batch.read for batch in batches], n_read, 0),
        _starts([batch.written for batch in batches], n_written, more),
        torch.cat([batch.rows + first for batch, first in zip(batches, first_rows)]),
    )
    parts = [
        Part(lane, size, len(batch.rows), written_size=written)
        for lane, size, written, batch in zip(lanes, n_read, n_written, batches, strict=True)
    ]
    return joined, Parts(1, tuple(parts), n_written=joined.labels.shape[1])


def _starts(starts: Sequence[Tensor], sizes: Sequence[int], more: int) -> Tensor:
    """Where the segments of rows of these sizes begin that stand behind one another, the last of all of `more`."""
    firsts = [0, *accumulate(sizes)]
    own = [each[:-1] + first for each, first in zip(starts, firsts)]
    return torch.cat([*own, torch.tensor([firsts[-1], firsts[-1] + more], dtype=torch.int32)])


def _inputs(batches: Sequence[LabelledBatch]) -> dict[str, list[Tensor]]:
    """What the model is given, by name, batch by batch; of texts without segments each token is of the first."""
    names = list(dict.fromkeys(name for batch in batches for name in batch.inputs))
    return {
        name: [
            batch.inputs[name] if name in batch.inputs else torch.zeros_like(batch.inputs["input_ids"])
            for batch in batches
        ]
        for name in names
    }


def _left_padded(batches: Sequence[Batch], lanes: Sequence[int], pad_id: int) -> tuple[Batch, Parts]:
    width = max(batch.input_ids.shape[1] for batch in batches)
    n_label_columns = max(batch.n_label_columns for batch in batches)
    paddings = [width - batch.input_ids.shape[1] for batch in batches]

    def wide(tensors: Sequence[Tensor], value: int) -> Tensor:
        padded = (functional.pad(tensor, (n, 0), value=value) for tensor, n in zip(tensors, paddings, strict=True))
        return torch.cat(list(padded))

    joined = Batch(
        wide([batch.input_ids for batch in batches], pad_id),
        wide([batch.attention_mask for batch in batches], 0),
        wide([batch.position_ids for batch in batches], 0),
        wide([batch.labels for batch in batches], IGNORED),
        sum(batch.n_labels for batch in batches),
        n_label_columns,
        sum(batch.n_tokens for batch in batches),
        [row_id for batch in batches for row_id in batch.ids],
    )
    parts = [
        Part(lane, len(batch.ids), len(batch.ids), padding, n_label_columns - batch.n_label_columns)
        for lane, batch, padding in zip(lanes, batches, paddings, strict=True)
    ]
    return joined, Parts(0, tuple(parts))


def _right_padded(batches: Sequence[LabelledBatch], lanes: Sequence[int], pad_id: int) -> tuple[LabelledBatch, Parts]:
    padding = {"input_ids": pad_id}
    inputs = {name: _stacked(tensors, padding.get(name, 0)) for name, tensors in _inputs(batches).items()}
    joined = LabelledBatch(
        inputs,
        _stacked([batch.labels for batch in batches], IGNORED),
        sum(batch.n_labels for batch in batches),
        sum(batch.n_tokens for batch in batches),
        [row_id for batch in batches for row_id in batch.ids],
    )
    parts = [Part(lane, len(batch.ids), len(batch.ids)) for lane, batch in zip(lanes, batches, strict=True)]
    return joined, Parts(0, tuple(parts))


def _stacked(tensors: Sequence[Tensor], padding: int) -> Tensor:
    """Rows behind one another, padded on the right to one length where they have columns of tokens."""
    if tensors[0].dim() != 2:
        return torch.cat(list(tensors))
    width = max(tensor.shape[1] for tensor in tensors)
    return torch.cat([functional.pad(tensor, (0, width - tensor.shape[1]), value=padding) for tensor in tensors])


def joint_row_losses(
    objectives: Sequence[Objective[Any]], lanes: Lanes, numbers: Sequence[int], batches: Sequence[Any]
) -> list[Tensor]:
    """The loss of each row, (B,), of the batches of the lanes with these numbers, out of one forward.

    The objectives, one a lane, are alike in all but their criterion.
    """
    model = lanes.model
    objective = minimising(objectives[0], of_lanes([each.criterion for each in objectives], batches))
    with_dropout = [model.training and lanes.has_dropout[number] for number in numbers]
    pad_id = model.config.get_text_config().pad_token_id or 0
    batch, parts = join(batches, numbers, with_dropout, pad_id)
    with objective.ready(model), lanes.at(parts):
        by_row = objective.row_losses(model, batch.to(model.device))
    return list(by_row.split([len(each.ids) for each in batches]))
