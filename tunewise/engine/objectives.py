"""Examples -> rows -> batches -> the loss, for each kind of head.

Legend: B rows, T columns (the longest row with its prefix), U columns of the longest answer, C classes or tags.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.image_utils import load_image

from tunewise.data.doctor.reading import Encoder
from tunewise.data.encode import ANSWERS, Encoded, encode_each
from tunewise.data.examples import Example, Ledger
from tunewise.data.labelled import READ, labelled_each
from tunewise.data.task import Task
from tunewise.data.token_store import encoded
from tunewise.data.written import WRITTEN, written_each
from tunewise.engine import loss
from tunewise.engine.batches import IGNORED, Batch, LabelledBatch, collate, padded, rectangle
from tunewise.engine.criterion import PLAIN, Criterion
from tunewise.engine.decoder_inputs import decoder_inputs
from tunewise.engine.fused import fused
from tunewise.engine.packed_classifier import (
    PackedTexts,
    Reads,
    first_position,
    gathered,
    label_logits,
    pack_texts,
    reads_of,
)
from tunewise.engine.packed_writing import PackedPairs, Place, logits, pack_pairs, packed_pairs, places, why_not_pairs
from tunewise.engine.packing import PackedBatch, pack, packed_attention, packed_losses, why_not_packed
from tunewise.engine.tried import tried
from tunewise.models.families import ENCODER_DECODER
from tunewise.models.fingerprint import of_cutting
from tunewise.models.heads import TaskHead
from tunewise.models.load import Base

logger = logging.getLogger(__name__)

PROBE_TOKENS = 64
"""The end of a prompt that a decoder is probed with."""


AnyBatch = TypeVar("AnyBatch", Batch, LabelledBatch, PackedBatch)


class Objective(Protocol[AnyBatch]):
    """How rows become batches, and what is minimised."""

    @property
    def layout(self) -> str:
        """Packed or padded."""

    @property
    def why_padded(self) -> str:
        """Why rows are padded that were to be packed; "" where they are packed, or were not to be."""

    @property
    def criterion(self) -> Criterion:
        """The loss of a label."""

    def collate(self, rows: Sequence[Encoded]) -> AnyBatch:
        """One batch of these rows."""

    def probe(self, row: Encoded) -> dict[str, Tensor]:
        """What the model's forward takes to say something of this row alone, the prefix left out."""

    def n_labels(self, row: Encoded) -> int:
        """How many labels of this row carry loss."""

    def row_losses(self, model: PreTrainedModel, batch: AnyBatch) -> Tensor:
        """The loss of each row, summed over its labels: (B,), at least float32."""

    def loss(self, model: PreTrainedModel, batch: AnyBatch) -> Tensor:
        """The loss summed over all labels of the batch (0-d, at least float32)."""

    def ready(self, model: PreTrainedModel) -> AbstractContextManager[None]:
        """What `model` has to be inside of for the losses and their backward."""


@dataclass(frozen=True)
class Padded:
    """Rows padded to one length, which any model reads as it is."""

    layout = "padded"
    why_padded: str = field(default="", kw_only=True)
    criterion: Criterion = field(default=PLAIN, kw_only=True)

    def n_labels(self, row: Encoded) -> int:
        return len(row.labels) - row.labels.count(IGNORED)

    def ready(self, model: PreTrainedModel) -> AbstractContextManager[None]:
        return fused(model)

    def row_losses(self, model: PreTrainedModel, batch: Any) -> Tensor:
        raise NotImplementedError

    def loss(self, model: PreTrainedModel, batch: Any) -> Tensor:
        return self.row_losses(model, batch).sum()


def objective_for(base: Base, prefix_ids: Sequence[int] = (), *, packing: bool = False) -> Objective[Any]:
    """The objective of a base by its head, every sequence beginning with `prefix_ids`.

    With `packing`, rows stand behind one another without padding where this base, with what is attached to it, runs so
    (`why_not_packed`).
    """
    prefix = tuple(prefix_ids)
    if base.tokenizer is None:
        return Images(base)
    if not packing:
        return _padded(base, prefix)
    packed, reason = _packed(base, prefix)
    if packed is not None:
        return packed
    logger.info("rows are padded: %s", reason)
    return _padded(base, prefix, reason)


def _padded(base: Base, prefix: tuple[int, ...], why: str = "") -> Objective[Any]:
    if base.head.kind != "lm":
        return Labels(base, prefix, why_padded=why)
    if base.anatomy.kind == ENCODER_DECODER:
        return Writing(base, prefix, why_padded=why)
    return NextToken(base.tokenizer.pad_token_id, prefix, why_padded=why)


def _packed(base: Base, prefix: tuple[int, ...]) -> tuple[Objective[Any] | None, str]:
    """The objective on packed rows, or why there is none."""
    model, anatomy = base.model, base.anatomy
    if base.head.kind != "lm":
        reads = reads_of(base.head, anatomy)
        what = first_position, prefix, reads
        first, reason = tried(model, what, lambda: first_position(model, anatomy, prefix, reads))
        return (None if reason else PackedLabels(base, prefix, first)), reason
    if anatomy.kind == ENCODER_DECODER:
        reason = tried(model, (why_not_pairs, prefix), lambda: why_not_pairs(model, anatomy, prefix))
        return (None if reason else PackedWriting(base, prefix, places(model, anatomy))), reason
    reason = tried(model, (why_not_packed, prefix), lambda: why_not_packed(model, prefix))
    return (None if reason else PackedNextToken(base.tokenizer.pad_token_id, prefix)), reason


def encode_rows(
    base: Base, task: Task, examples: Sequence[Example], max_length: int
) -> tuple[Sequence[Encoded], Ledger]:
    """Rows of at most `max_length` tokens, as this base with its head is trained on them, and the account of all."""
    return encoder_for(task, base.tokenizer, base.anatomy.kind, base.head)(examples, max_length)


def encoder_for(task: Task, tokenizer: PreTrainedTokenizerBase | None, model_kind: str, head: TaskHead) -> Encoder:
    """(examples, max_length) -> rows and account, as a base of this kind (families.KINDS) is trained on them."""

    def encode(examples: Sequence[Example], max_length: int) -> tuple[Sequence[Encoded], Ledger]:
        if tokenizer is None or head.kind != "lm":
            if not examples:
                return [], Ledger()
            each, told = partial(labelled_each, task, tokenizer=tokenizer, max_length=max_length), READ
            form = f"classifier {task.kind} {task.labels}"
        elif model_kind == ENCODER_DECODER:
            each, told, form = partial(written_each, tokenizer=tokenizer, max_length=max_length), WRITTEN, "seq2seq 2"
        else:
            each, told, form = partial(encode_each, tokenizer=tokenizer, max_length=max_length), ANSWERS, "decoder"
        cut = "" if tokenizer is None else f"{form} {max_length} {of_cutting(tokenizer)}"
        rows, ledger = encoded(examples, each, told, cut)
        return rows, replace(ledger, rows=len(examples), more=ledger.rows - len(examples))

    return encode


@dataclass(frozen=True)
class NextToken(Padded):
    """A decoder: cross-entropy of the next token, where labels are."""

    pad_id: int
    prefix_ids: tuple[int, ...] = ()

    def collate(self, rows: Sequence[Encoded]) -> Batch:
        return collate(rows, self.pad_id, self.prefix_ids)

    def probe(self, row: Encoded) -> dict[str, Tensor]:
        return {"input_ids": torch.tensor([row.ids[: row.prompt_length][-PROBE_TOKENS:]])}

    def n_labels(self, row: Encoded) -> int:
        told = row.labels[1:]  # nothing predicts the first
        return len(told) - told.count(IGNORED)

    def row_losses(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        return self.criterion.losses(*loss.label_logits(model, batch)).sum(dim=1)

    def loss(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        return loss.token_loss(model, batch)[0] if self.criterion == PLAIN else super().loss(model, batch)


@dataclass(frozen=True)
class PackedNextToken:
    """The same, rows behind one another."""

    layout, why_padded = "packed", ""
    pad_id: int
    prefix_ids: tuple[int, ...] = ()
    criterion: Criterion = PLAIN

    def collate(self, rows: Sequence[Encoded]) -> PackedBatch:
        return pack(rows, self.pad_id, self.prefix_ids)

    def ready(self, model: PreTrainedModel) -> AbstractContextManager[None]:
        return packed_attention(model)

    def probe(self, row: Encoded) -> dict[str, Tensor]:
        return NextToken(self.pad_id).probe(row)

    def n_labels(self, row: Encoded) -> int:
        return NextToken(self.pad_id).n_labels(row)

    def row_losses(self, model: PreTrainedModel, batch: PackedBatch) -> Tensor:
        losses = packed_losses(model, batch, self.criterion)
        return losses.new_zeros(len(batch.ids)).index_add(0, batch.rows, losses)

    def loss(self, model: PreTrainedModel, batch: PackedBatch) -> Tensor:
        return packed_losses(model, batch, self.criterion).sum()


@dataclass(frozen=True)
class Writing(Padded):
    """An encoder-decoder: cross-entropy of each token of the answer behind those before it."""

    base: Base
    prefix_ids: tuple[int, ...] = ()

    def collate(self, rows: Sequence[Encoded]) -> LabelledBatch:
        inputs, n_tokens = padded(rows, self.base.tokenizer.pad_token_id, self.prefix_ids)
        labels = rectangle([row.labels for row in rows], IGNORED)
        n_labels = sum(len(row.labels) for row in rows)
        return LabelledBatch(inputs, labels, n_labels, n_tokens + n_labels, [row.id for row in rows])

    def probe(self, row: Encoded) -> dict[str, Tensor]:
        start = self.base.model.config.decoder_start_token_id
        return {"input_ids": torch.tensor([row.ids]), "decoder_input_ids": torch.tensor([[start]])}

    def row_losses(self, model: PreTrainedModel, batch: LabelledBatch) -> Tensor:
        is_told = batch.labels != IGNORED
        entered = decoder_inputs(model, batch.labels)
        with self._head_where(is_told):
            logits = model(**batch.inputs, decoder_input_ids=entered, use_cache=False).logits
        losses = self.criterion.label_losses(logits, batch.labels[is_told])
        return losses.new_zeros(len(is_told)).index_add(0, is_told.nonzero()[:, 0], losses)

    @contextmanager
    def _head_where(self, is_told: Tensor) -> Iterator[None]:
        """Inside the block the head sees the K positions (of (B, U)) that predict something, and no other."""
        assert self.base.anatomy.head is not None
        head = self.base.model.get_submodule(self.base.anatomy.head.module)
        hook = head.register_forward_pre_hook(lambda module, args: (args[0][is_told], *args[1:]))
        try:
            yield
        finally:
            hook.remove()


@dataclass(frozen=True)
class PackedWriting(Writing):
    """The same, prompts behind one another and answers behind one another."""

    places: Mapping[nn.Module, Place] = field(default_factory=dict)
    """Where each attention module stands."""

    layout = "packed"

    def collate(self, rows: Sequence[Encoded]) -> PackedPairs:
        return pack_pairs(rows, self.base.model, self.base.tokenizer.pad_token_id, self.prefix_ids)

    def ready(self, model: PreTrainedModel) -> AbstractContextManager[None]:
        return packed_pairs(model, self.places)

    def row_losses(self, model: PreTrainedModel, batch: LabelledBatch) -> Tensor:
        assert isinstance(batch, PackedPairs)
        is_told = batch.labels != IGNORED
        with self._head_where(is_told):
            losses = self.criterion.label_losses(logits(model, batch, self.places), batch.labels[is_told])
        return losses.new_zeros(len(batch.ids)).index_add(0, batch.rows, losses)


@dataclass(frozen=True)
class Labels(Padded):
    """A classifier: cross-entropy of classes and tags, the squared error of values."""

    base: Base
    prefix_ids: tuple[int, ...] = ()

    def collate(self, rows: Sequence[Encoded]) -> LabelledBatch:
        inputs, n_tokens = padded(rows, self.base.tokenizer.pad_token_id, self.prefix_ids)
        return self.labelled(rows, inputs, n_tokens)

    def labelled(self, rows: Sequence[Encoded], inputs: dict[str, Tensor], n_tokens: int) -> LabelledBatch:
        """The batch of these inputs, with the labels of these rows."""
        if self.base.head.kind == "tags":
            ahead = (IGNORED,) * len(self.prefix_ids)
            labels = rectangle([(*ahead, *row.labels) for row in rows], IGNORED)
        else:
            labels = torch.tensor([row.labels[0] for row in rows])
        n_labels = labels.numel() - int((labels == IGNORED).sum()) if labels.dim() > 1 else len(rows)
        return LabelledBatch(inputs, labels, n_labels, n_tokens, [row.id for row in rows])

    def probe(self, row: Encoded) -> dict[str, Tensor]:
        inputs = replace(self, prefix_ids=()).collate([row]).inputs
        return {name: tensor for name, tensor in inputs.items() if name != "attention_mask"}

    def logits(self, model: PreTrainedModel, batch: LabelledBatch) -> Tensor:
        """(B, C), (B, T, C) for tags, (B, 1) for values."""
        return self.logits_of(model, batch.inputs)

    def logits_of(self, model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Tensor:
        """The same, of what the model is given."""
        return loss.wide(model(**inputs).logits)

    def of_row(self, logits: Tensor, batch: LabelledBatch, place: int) -> Tensor:
        """What is told of one row of the batch: (C,), (K, C) for its K tags, (1,) for values."""
        return logits[place][batch.labels[place] != IGNORED] if self.base.head.kind == "tags" else logits[place]

    def row_losses(self, model: PreTrainedModel, batch: LabelledBatch) -> Tensor:
        return self.losses(self.logits(model, batch), batch)

    def losses(self, logits: Tensor, batch: LabelledBatch) -> Tensor:
        """(B,) the loss of each row from its `logits`."""
        if self.base.head.kind == "value":
            return (logits.squeeze(-1) - batch.labels).square()
        losses = self.criterion.losses(logits, batch.labels)
        return losses if self.base.head.kind == "classes" else losses.sum(dim=1)


@dataclass(frozen=True)
class PackedLabels(Labels):
    """The same, texts behind one another; logits (K, C) are those of the labels alone."""

    first_position: int = 0

    layout = "packed"

    @property
    def reads(self) -> Reads:
        return reads_of(self.base.head, self.base.anatomy)

    def collate(self, rows: Sequence[Encoded]) -> PackedTexts:
        return pack_texts(rows, self.base.tokenizer.pad_token_id, self.prefix_ids, self.first_position, self.reads)

    def ready(self, model: PreTrainedModel) -> AbstractContextManager[None]:
        return packed_attention(model)

    def probe(self, row: Encoded) -> dict[str, Tensor]:
        return Labels(self.base).probe(row)

    def logits(self, model: PreTrainedModel, batch: LabelledBatch) -> Tensor:
        assert isinstance(batch, PackedTexts)
        with gathered(model, self.base.anatomy, batch, self.reads):
            return self.logits_of(model, batch.inputs)

    def logits_of(self, model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Tensor:
        return loss.wide(label_logits(model, self.base.anatomy, inputs, self.reads))

    def of_row(self, logits: Tensor, batch: LabelledBatch, place: int) -> Tensor:
        if self.reads != "labelled":
            return logits[place]
        assert isinstance(batch, PackedTexts)
        return logits[batch.texts == place]

    def losses(self, logits: Tensor, batch: LabelledBatch) -> Tensor:
        if self.reads != "labelled":
            return super().losses(logits, batch)
        assert isinstance(batch, PackedTexts)
        losses = self.criterion.label_losses(logits, batch.labels)
        return losses.new_zeros(len(batch.ids)).index_add(0, batch.texts, losses)


@dataclass(frozen=True)
class Images(Labels):
    """A classifier of images, read from their files batch by batch."""

    def collate(self, rows: Sequence[Encoded]) -> LabelledBatch:
        assert self.base.image_processor is not None
        pixels = self.base.image_processor(images=[load_image(row.image) for row in rows], return_tensors="pt")
        pixels = pixels["pixel_values"]
        return self.labelled(rows, {"pixel_values": pixels.to(self.base.dtype)}, len(rows))
