"""What an evaluation asks of a model, apart from what it makes of the answers: so several can be asked at once.

An evaluation is a generator: it yields one thing after another that it wants to know, is sent what the model says, and
returns what it makes of it.
"""

import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from tunewise.data.encode import Encoded
from tunewise.engine.backend import chosen
from tunewise.engine.batches import plain
from tunewise.engine.decoding import Decoding, decode
from tunewise.engine.objectives import Objective, objective_for
from tunewise.engine.scoring import losses_from_trunk, option_log_probabilities, sequence_losses
from tunewise.engine.trunk import Trunk
from tunewise.engine.writing import write, written_log_probabilities
from tunewise.evaluation.by_head import answers_by_head
from tunewise.evaluation.questions import LabelledRows
from tunewise.models.families import ENCODER_DECODER
from tunewise.models.load import Base

LARGEST_OF_DOCUMENTS = 16
"""Documents of a padded batch: their logits are those of every token."""


@dataclass(frozen=True)
class How:
    """How a model is asked; `trunk` is what is frozen of it: rows run through it once, however often they are asked."""

    prefix_ids: tuple[int, ...] = ()
    batch_size: int = 32
    packing: bool = True
    trunk: Trunk | None = None


@dataclass
class Ask:
    """One thing to be known."""

    seconds: float = field(default=0.0, init=False)
    """What the answer took, where it is there."""


@dataclass
class Likelihoods(Ask):
    """For each prompt, the log-probability (nats) of each of its options, summed over tokens: list[list[float]]."""

    prompts: Sequence[Sequence[int]]
    options: Sequence[Sequence[Sequence[int]]]


@dataclass
class Texts(Ask):
    """What is written behind each prompt: list[str]."""

    prompts: Sequence[Sequence[int]]
    how: Decoding


@dataclass
class Documents(Ask):
    """For each document (token ids), cut to what the context leaves it beside virtual tokens, its loss in nats summed
    over every token but its first, and the number of those tokens: list[tuple[float, int]]."""

    ids: Sequence[Sequence[int]]

    def cut(self, base: Base, how: How) -> list[Sequence[int]]:
        """What is read of each."""
        context = base.anatomy.context_length
        return [ids[: None if context is None else context - len(how.prefix_ids)] for ids in self.ids]


@dataclass
class ByHead(Ask):
    """What a classifier on top says of each row, and its loss, as `answers_by_head` tells it."""

    rows: LabelledRows


@dataclass
class RowLosses(Ask):
    """The loss of rows as they are trained on, summed over their labels, and the number of these: (float, int)."""

    rows: Sequence[Encoded]
    objective: Objective[Any]
    batch_size: int


Known = TypeVar("Known")
Asks = Generator[Ask, Any, Known]


def alone(base: Base, asks: Asks[Known], how: How) -> Known:
    """What `asks` comes to, of `base`, with whatever is attached to it, in evaluation mode."""
    told = None
    with closing(asks), chosen(base.model.device):
        while True:
            try:
                ask = asks.send(told)
            except StopIteration as end:
                return end.value
            start = time.perf_counter()
            told = answer_to(base, ask, how)
            ask.seconds = time.perf_counter() - start


def timed(asks: Asks[Known]) -> Asks[tuple[Known, float]]:
    """The same, with the seconds that all answers took."""
    seconds, told = 0.0, None
    while True:
        try:
            ask = asks.send(told)
        except StopIteration as end:
            return end.value, seconds
        told = yield ask
        seconds += ask.seconds


def answer_to(base: Base, ask: Ask, how: How) -> Any:
    """What `base` says to one."""
    prefix_ids, batch_size, packing, trunk = how.prefix_ids, how.batch_size, how.packing, how.trunk
    match ask:
        case Likelihoods(prompts=prompts, options=options):
            return _log_probabilities(base, prompts, options, how)
        case Texts(prompts=prompts, how=decoding) if base.anatomy.kind == ENCODER_DECODER:
            return write(base, prompts, decoding, prefix_ids=prefix_ids, batch_size=batch_size)
        case Texts(prompts=prompts, how=decoding):
            return decode(
                base.model, base.tokenizer, prompts, decoding, prefix_ids=prefix_ids, batch_size=batch_size,
                packing=packing,
            )  # fmt: skip
        case Documents():
            documents, batch_size = ask.cut(base, how), min(LARGEST_OF_DOCUMENTS, batch_size)
            if trunk is not None:
                rows = [plain("", ids, max(0, len(ids) - 1)) for ids in documents]
                found = losses_from_trunk(objective_for(base, packing=packing), trunk, rows, batch_size)
                return [(loss, max(0, len(ids) - 1)) for loss, ids in zip(found, documents, strict=True)]
            return sequence_losses(
                base.model, documents, pad_id=base.tokenizer.pad_token_id, prefix_ids=prefix_ids,
                batch_size=batch_size, packing=packing,
            )  # fmt: skip
        case ByHead(rows=labelled):
            return answers_by_head(base, labelled, prefix_ids, batch_size, trunk, packing)
        case RowLosses():
            return _row_losses(base, ask)
    raise AssertionError(ask)


def _log_probabilities(
    base: Base, prompts: Sequence[Sequence[int]], options: Sequence[Sequence[Sequence[int]]], how: How
) -> list[list[float]]:
    if how.trunk is not None and how.trunk.live == "head":
        asked = list(zip(prompts, options, strict=True))
        rows = [plain("", [*prompt, *option], len(option)) for prompt, of_prompt in asked for option in of_prompt]
        objective = objective_for(base, packing=how.packing)
        losses = iter(losses_from_trunk(objective, how.trunk, rows, how.batch_size))
        return [[-next(losses) for _ in of_prompt] for of_prompt in options]
    if base.anatomy.kind == ENCODER_DECODER:
        return written_log_probabilities(base, prompts, options, prefix_ids=how.prefix_ids, batch_size=how.batch_size)
    return option_log_probabilities(
        base.model, prompts, options, pad_id=base.tokenizer.pad_token_id, prefix_ids=how.prefix_ids,
        batch_size=how.batch_size, packing=how.packing,
    )  # fmt: skip


@torch.no_grad()
def _row_losses(base: Base, ask: RowLosses) -> tuple[float, int]:
    total, n_labels = 0.0, 0
    with ask.objective.ready(base.model):
        for start in range(0, len(ask.rows), ask.batch_size):
            batch = ask.objective.collate(ask.rows[start : start + ask.batch_size])
            if batch.n_labels:
                total += float(ask.objective.loss(base.model, batch.to(base.model.device)))
                n_labels += batch.n_labels
    return total, n_labels
