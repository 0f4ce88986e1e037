"""Texts behind one another in one row for a classifier, whose head reads one token of each, or for a tagger.

A classifier's head reads the first token of a text (an encoder's) or the last that is no padding id (a decoder's), as
transformers' classes do; a tagger's reads those that have a label, and no others.

Legend: T tokens of all texts, B texts, K labels, S segments: the texts, and padding where T would be no multiple of
ROUND; d width, C classes or tags.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunewise.data.encode import Encoded
from tunewise.engine.attention import why_no_attention
from tunewise.engine.batches import IGNORED, LabelledBatch
from tunewise.engine.last_layer import read_at, read_places
from tunewise.engine.packing import APART, ROUND, packed_attention, why_not_the_same
from tunewise.models.anatomy import Anatomy
from tunewise.models.families import DECODER
from tunewise.models.heads import TaskHead


@dataclass(frozen=True)
class PackedTexts(LabelledBatch):
    """Texts in one row: input_ids, position_ids and token_type_ids (1, T), segment_starts (S + 1,); labels (K,)."""

    pooled: Tensor
    """(K,) the token that the head reads for each label."""
    texts: Tensor
    """(K,) the text of each label."""
    read: Tensor
    """(R,) where the last layer is needed: those, and others up to a multiple of ROUND."""

    def to(self, device: torch.device) -> Self:
        """The same batch with its tensors on `device`, but for the starts, which stay on the CPU."""
        moved = super().to(device)
        inputs = {**moved.inputs, "segment_starts": self.inputs["segment_starts"]}
        told = (tensor.to(device, non_blocking=True) for tensor in (self.pooled, self.texts, self.read))
        return replace(moved, inputs=inputs, **dict(zip(("pooled", "texts", "read"), told, strict=True)))


Reads = Literal["first", "last", "labelled"]
"""The tokens of a text that a head reads: the first, the last that is no padding id, or those that have a label."""


def reads_of(head: TaskHead, anatomy: Anatomy) -> Reads:
    """What this head reads of each text."""
    if head.kind == "tags":
        return "labelled"
    return "last" if anatomy.kind == DECODER else "first"


def pack_texts(
    rows: Sequence[Encoded], pad_id: int, prefix_ids: Sequence[int], first_position: int, reads: Reads = "first"
) -> PackedTexts:
    """One batch of these rows, each behind `prefix_ids`; positions count from `first_position`."""
    lengths = [len(prefix_ids) + len(row.ids) for row in rows]
    padding = -sum(lengths) % ROUND
    whole = [*lengths, *([padding] if padding else [])]
    ids = [token for row in rows for token in (*prefix_ids, *row.ids)] + [pad_id] * padding
    positions = [first_position + place for length in whole for place in range(length)]
    starts = [0, *accumulate(whole)]
    inputs = {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([positions]),
        "segment_starts": torch.tensor(starts, dtype=torch.int32),
    }
    if any(row.segments for row in rows):
        kinds = [kind for row in rows for kind in (*(0,) * len(prefix_ids), *row.segments)]
        inputs["token_type_ids"] = torch.tensor([kinds + [0] * padding])
    told = [_read(row, pad_id, len(prefix_ids), reads) for row in rows]
    pooled = [start + place for places, start in zip(told, starts) for place in places]
    labels = [label for row in rows for label in row.labels if reads != "labelled" or label != IGNORED]
    texts = [number for number, places in enumerate(told) for _ in places]
    return PackedTexts(
        inputs,
        torch.tensor(labels, dtype=None if labels else torch.long),
        len(labels),
        sum(lengths),
        [row.id for row in rows],
        torch.tensor(pooled, dtype=torch.long),
        torch.tensor(texts, dtype=torch.long),
        torch.tensor(read_places(pooled, len(ids), ROUND), dtype=torch.long),
    )


def _read(row: Encoded, pad_id: int, n_prefix: int, reads: Reads) -> list[int]:
    """The places of a row, behind its prefix, that the head reads."""
    if reads == "first":
        return [0]
    if reads == "labelled":
        return [n_prefix + place for place, label in enumerate(row.labels) if label != IGNORED]
    last = next((place for place in range(len(row.ids) - 1, -1, -1) if row.ids[place] != pad_id), None)
    return [n_prefix + last if last is not None else 0]


@contextmanager
def gathered(model: PreTrainedModel, anatomy: Anatomy, batch: PackedTexts, reads: Reads) -> Iterator[None]:
    """Inside the block the layers hand on the states that the head reads, and no others.

    To a head that reads the first tokens they come as those of B texts of one token, (B, 1, d), to one that reads the
    last as (B, d), to one that reads those with labels as one text's, (1, K, d).
    """
    stack = model.get_submodule(anatomy.layers[0].rpartition(".")[0].rpartition(".")[0])

    def gather(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        states = output.last_hidden_state[0, batch.pooled]
        output.last_hidden_state = {"first": states[:, None], "last": states, "labelled": states[None]}[reads]
        if output.hidden_states is not None:  # of which DeBERTa takes the last
            output.hidden_states = (*output.hidden_states[:-1], output.last_hidden_state)
        return output

    handle = stack.register_forward_hook(gather)
    try:
        with read_at(model, batch.read):
            yield
    finally:
        handle.remove()


def label_logits(model: PreTrainedModel, anatomy: Anatomy, inputs: Mapping[str, Tensor], reads: Reads) -> Tensor:
    """(K, C) what the head makes of gathered states.

    A decoder's model would look for each text's last token in them, so they are taken from its head.
    """
    if reads == "first":
        return model(**inputs).logits
    if reads == "labelled":
        return model(**inputs, **({"use_cache": False} if anatomy.kind == DECODER else {})).logits[0]
    made: list[Tensor] = []

    def take(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        made.append(output)
        return output.new_zeros(1, 1, output.shape[-1]).expand(1, inputs["input_ids"].shape[1], -1)

    handle = model.get_submodule(anatomy.task_head[0].rpartition(".")[0]).register_forward_hook(take)
    try:
        model(**inputs, use_cache=False)
    finally:
        handle.remove()
    return made[0]


@torch.no_grad()
def first_position(
    model: PreTrainedModel, anatomy: Anatomy, prefix_ids: Sequence[int], reads: Reads
) -> tuple[int, str]:
    """Where this classifier's positions begin (RoBERTa's behind the padding id), and why it cannot be packed, or "".

    Tried and not guessed: two texts are run in one row, and the second has to come out as it does alone, and exactly as
    it does behind another first.
    """
    if reason := why_no_attention(model):
        return 0, reason
    generator = torch.Generator().manual_seed(0)
    pad_id = model.config.pad_token_id or 0
    n = min(64, model.get_input_embeddings().weight.shape[0]) - 1
    drawn = [torch.randint(n, (length,), generator=generator) for length in (5, 9)]
    tokens = [tuple((ids + (ids >= pad_id)).tolist()) for ids in drawn]  # any but the padding id
    tokens.append(tokens[0][::-1])
    rows = [Encoded("", ids, (0,) * (len(ids) if reads == "labelled" else 1), len(ids), False) for ids in tokens]
    was_training = model.training
    model.eval()
    try:
        alone, first = _alone(model, torch.tensor([[*prefix_ids, *tokens[1]]], device=model.device), pad_id)
        alone = alone[0, len(prefix_ids) :] if reads == "labelled" else alone
        told = []
        for other in (0, 2):
            batch = pack_texts([rows[other], rows[1]], pad_id, prefix_ids, first, reads).to(model.device)
            with packed_attention(model), gathered(model, anatomy, batch, reads):
                packed = label_logits(model, anatomy, batch.inputs, reads)
            if len(packed) != len(batch.texts):
                raise ValueError("its head makes one answer of all texts")
            told.append(packed[batch.texts == 1])
    except (AttributeError, IndexError, TypeError, ValueError, RuntimeError) as error:
        return 0, f"{type(model).__name__} does not run packed: {error}"
    finally:
        model.train(was_training)
    return first, why_not_the_same(model, "texts", *told, alone)


def _alone(model: PreTrainedModel, ids: Tensor, pad_id: int) -> tuple[Tensor, int]:
    """What is said of one text, and the position of its first token: with which the same is said, to the last bit.

    In half precision an answer at other positions may be as near as one that was only rounded otherwise.
    """
    wanted = model(input_ids=ids).logits
    counted = torch.arange(ids.shape[1], device=ids.device)[None]
    for first in dict.fromkeys((0, pad_id + 1)):
        found = model(input_ids=ids, position_ids=counted + first).logits
        if float((found - wanted).abs().max()) <= APART * float(wanted.abs().max()):
            return wanted, first
    raise ValueError("its positions begin elsewhere, as behind a prefix inside the model")
