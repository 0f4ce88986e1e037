"""Texts behind one another in one row for a classifier, whose head reads one token of each.

An encoder's head reads the first, a decoder's the last that is no padding id, as transformers' classes do.

Legend: T tokens of all texts, B texts, S segments: the texts, and padding where T would be no multiple of ROUND; d
width, C classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunewise.data.encode import Encoded
from tunewise.engine.attention import why_no_attention
from tunewise.engine.batches import LabelledBatch
from tunewise.engine.last_layer import read_at, read_places
from tunewise.engine.packing import ROUND, SAME, packed_attention
from tunewise.models.anatomy import Anatomy
from tunewise.models.families import DECODER, ENCODER


@dataclass(frozen=True)
class PackedTexts(LabelledBatch):
    """Texts in one row: input_ids, position_ids and token_type_ids (1, T), segment_starts (S + 1,); labels (B,)."""

    pooled: Tensor
    """(B,) the token of each text that the head reads."""
    read: Tensor
    """(R,) where the last layer is needed: those, and others up to a multiple of ROUND."""

    def to(self, device: torch.device) -> Self:
        """The same batch with its tensors on `device`, but for the starts, which stay on the CPU."""
        moved = super().to(device)
        inputs = {**moved.inputs, "segment_starts": self.inputs["segment_starts"]}
        pooled, read = (tensor.to(device, non_blocking=True) for tensor in (self.pooled, self.read))
        return replace(moved, inputs=inputs, pooled=pooled, read=read)


def pack_texts(
    rows: Sequence[Encoded], pad_id: int, prefix_ids: Sequence[int], first_position: int, reads_last: bool = False
) -> PackedTexts:
    """One batch of these rows, each behind `prefix_ids`; positions count from `first_position`.

    The head reads the first token of each, or with `reads_last` the last that is not `pad_id`.
    """
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
    labels = torch.tensor([row.labels[0] for row in rows])
    pooled = [
        start + (_last_told((*prefix_ids, *row.ids), pad_id) if reads_last else 0) for row, start in zip(rows, starts)
    ]
    read = torch.tensor(read_places(pooled, len(ids), ROUND))
    return PackedTexts(inputs, labels, len(rows), sum(lengths), [row.id for row in rows], torch.tensor(pooled), read)


def _last_told(ids: Sequence[int], pad_id: int) -> int:
    """The place of the last id that is not `pad_id`; 0 where all are."""
    return next((place for place in range(len(ids) - 1, -1, -1) if ids[place] != pad_id), 0)


@contextmanager
def gathered(model: PreTrainedModel, anatomy: Anatomy, batch: PackedTexts) -> Iterator[None]:
    """Inside the block the layers hand on the states that the head reads, and no others.

    To an encoder's head they come as those of B texts of one token, (B, 1, d), to a decoder's as (B, d).
    """
    stack = model.get_submodule(anatomy.layers[0].rpartition(".")[0].rpartition(".")[0])
    reads_first = anatomy.kind == ENCODER

    def gather(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        states = output.last_hidden_state[0, batch.pooled]
        output.last_hidden_state = states.unsqueeze(1) if reads_first else states
        return output

    handle = stack.register_forward_hook(gather)
    try:
        with read_at(model, batch.read):
            yield
    finally:
        handle.remove()


def class_logits(model: PreTrainedModel, anatomy: Anatomy, inputs: Mapping[str, Tensor]) -> Tensor:
    """(B, C) what the head makes of gathered states.

    A decoder's model would look for each text's last token in them, so they are taken from its head.
    """
    if anatomy.kind == ENCODER:
        return model(**inputs).logits
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


def first_position(model: PreTrainedModel, anatomy: Anatomy, prefix_ids: Sequence[int]) -> tuple[int, str]:
    """Where this classifier's positions begin (RoBERTa's behind the padding id), and why it cannot be packed, or "".

    Tried and not guessed: two texts are run in one row, and both have to come out as they do alone.
    """
    if reason := why_no_attention(model):
        return 0, reason
    generator = torch.Generator().manual_seed(0)
    pad_id = model.config.pad_token_id or 0
    n = min(64, model.get_input_embeddings().weight.shape[0])
    tokens = [tuple((torch.randint(pad_id + 1, n, (length,), generator=generator)).tolist()) for length in (5, 9)]
    rows = [Encoded("", ids, (0,), len(ids), truncated=False) for ids in tokens]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            whole = [torch.tensor([[*prefix_ids, *ids]], device=model.device) for ids in tokens]
            alone = torch.cat([model(input_ids=ids).logits for ids in whole])
            for first in dict.fromkeys((0, pad_id + 1)):
                batch = pack_texts(rows, pad_id, prefix_ids, first, anatomy.kind == DECODER).to(model.device)
                with packed_attention(model), gathered(model, anatomy, batch):
                    packed = class_logits(model, anatomy, batch.inputs)
                distance = float((packed - alone).abs().max() / alone.abs().max().clamp(min=1e-6))
                if distance < SAME[model.dtype]:
                    return first, ""
                reason = f"{type(model).__name__} does not keep packed texts apart ({distance:.2g})"
    except (AttributeError, IndexError, TypeError, ValueError, RuntimeError) as error:
        reason = f"{type(model).__name__} does not run packed: {error}"
    finally:
        model.train(was_training)
    return 0, reason
