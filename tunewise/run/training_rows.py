"""The rows that a run is trained on: those of its task, or of each source of a mixture, and those that are replayed."""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from tunewise.data.encode import Encoded
from tunewise.data.examples import Example, Ledger
from tunewise.data.mixing import normalised
from tunewise.data.replay import added, encode_texts
from tunewise.data.task import Task
from tunewise.data.token_store import joined, lengths
from tunewise.engine.objectives import encode_rows
from tunewise.engine.sources import Sources
from tunewise.errors import UserError
from tunewise.evaluation.by_source import examples_by_source
from tunewise.models.families import DECODER
from tunewise.models.load import Base
from tunewise.training.config import TrainConfig

logger = logging.getLogger(__name__)

TEXTS = "language_modelling"


@dataclass(frozen=True)
class TrainingRows:
    """What a run is trained on: rows with an answer, then rows of text (one that is cut has no end to be checked)."""

    rows: Sequence[Encoded]
    answered: Sequence[Encoded]
    sources: Sources
    """Whose they are, and in which order they are drawn."""
    ledger: Ledger

    @property
    def n_answered(self) -> int:
        return len(self.answered)

    def in_turn(self, seed: int) -> Iterator[Encoded]:
        """Every row in its order; of a mixture those of one epoch as they are drawn, so that the first are of all."""
        places = self.sources.epoch(seed, 0) if self.sources.rates else range(len(self.rows))
        return (self.rows[place] for place in places)

    def table(self, config: TrainConfig, seed: int) -> list[dict[str, Any]]:
        """What a whole run draws: of each source its rows, its share, and how many examples, tokens (prefixes left
        out) and epochs that is; [] for rows of one source."""
        if len(self.sources.names) < 2:
            return []
        n_drawn = config.n_drawn(self.sources.n)
        times, n_ids = np.array(self.sources.times(seed, n_drawn)), lengths(self.rows)
        first, found = 0, []
        for name, size in zip(self.sources.names, self.sources.sizes, strict=True):
            ours = slice(first, first + size)
            n_examples, n_tokens = int(times[ours].sum()), int(times[ours] @ n_ids[ours])
            told = {"source": name, "rows": size, "share": n_examples / n_drawn, "examples": n_examples}
            found.append({**told, "epochs": n_examples / size, "tokens": n_tokens})
            first += size
        return found


@dataclass(frozen=True)
class _Block:
    """Rows of one source."""

    name: str
    task: Task
    examples: Sequence[Example]
    is_text: bool
    is_replayed: bool = False


def training_rows(base: Base, task: Task, max_length: int) -> TrainingRows:
    """Everything that a run of `task` is trained on, at most `max_length` tokens a row.

    UserError for a base that cannot be trained on a source, or on what is to be replayed.
    """
    parts: list[Sequence[Encoded]] = []
    sizes: dict[str, int] = {}
    ledger = Ledger()
    blocks = sorted(_blocks(task), key=lambda block: block.is_text)
    for block in blocks:
        found, of_block = _encoded(base, block, max_length)
        parts.append(found)
        sizes[block.name] = len(found)
        of_its_own = block.name if block.is_replayed or task.mixture else ""
        ledger = added(ledger, of_block, of_its_own, is_replayed=block.is_replayed)
    n_answered = sum(not block.is_text for block in blocks)
    rows, answered = joined(parts), joined(parts[:n_answered]) if n_answered else ()
    return TrainingRows(rows, answered, _sources(task, sizes, {b.name for b in blocks if b.is_replayed}), ledger)


def rows_of(base: Base, task: Task, examples: Sequence[Example], max_length: int) -> list[Encoded]:
    """Rows of any examples of a task, those of each source of a mixture behind one another."""
    blocks = (_own(task, name, found) for name, found in examples_by_source(task, examples).items())
    return [row for block in blocks for row in _encoded(base, block, max_length)[0]]


def tell(ledger: Ledger, table: Sequence[Mapping[str, Any]]) -> None:
    """Through `logging`: how often each source is drawn, and what was cut or rejected."""
    if table:
        logger.info("%s", in_columns(table))
    if ledger.more:
        logger.info("%d answers of conversations are rows of their own, beside the last one of each", ledger.more)
    if ledger.truncated or ledger.rejected:
        logger.warning("training rows: %s", ledger.sentence())


def tell_limit(base: Base, config: TrainConfig, longest: int, n_prefix: int, ledger: Ledger) -> None:
    """Through `logging`: that `train.max_length` is more than the base reads, where it was typed, or rows were cut."""
    if longest >= config.max_length:
        return
    if ledger.truncated or ledger.rejected or config.max_length != TrainConfig().max_length:
        behind = f" behind a prefix of {n_prefix}" if n_prefix else ""
        told = "training rows have at most %d tokens, as many as %s reads%s: train.max_length=%d is lowered to that"
        logger.warning(told, longest, base.name, behind, config.max_length)


def in_columns(table: Sequence[Mapping[str, Any]]) -> str:
    """What `TrainingRows.table` found, as text."""
    width = max(len("source"), *(len(row["source"]) for row in table))
    lines = [f"{'source':<{width}}{'rows':>9}{'share':>9}{'examples':>11}{'epochs':>9}{'tokens':>12}"]
    for row in table:
        counts = f"{row['examples']:>11,}{row['epochs']:>9.2f}{row['tokens']:>12,}"
        lines.append(f"{row['source']:<{width}}{row['rows']:>9,}{row['share']:>8.1%} {counts}")
    return "\n".join(lines)


def _own(task: Task, name: str, examples: Sequence[Example]) -> _Block:
    each = task.each[name]
    return _Block(name or task.name, each, examples, is_text=task.mixture is not None and each.kind == TEXTS)


def _blocks(task: Task) -> Iterator[_Block]:
    taken = set()
    for name, each in task.each.items():
        taken.add(name or task.name)
        yield _own(task, name, each.train)
    for each in task.replayed:
        names = (each.source if number == 1 else f"{each.source} {number}" for number in count(1))
        name = next(name for name in names if name not in taken)
        taken.add(name)
        yield _Block(name, task, each.examples, each.is_text, is_replayed=True)


def _encoded(base: Base, block: _Block, max_length: int) -> tuple[Sequence[Encoded], Ledger]:
    in_words = base.head.kind == "lm"
    if (block.is_replayed and not in_words) or (block.is_text and not (in_words and base.anatomy.kind == DECODER)):
        raise UserError(
            f"{base.name} with this head is not trained on {'texts' if block.is_text else 'answers in words'} "
            f"such as {block.name}",
            "leave data.replay out" if block.is_replayed else f"leave the source {block.name} out",
        )
    if not block.is_text:
        return encode_rows(base, block.task, block.examples, max_length)
    assert base.tokenizer is not None
    found, ledger = encode_texts(block.examples, base.tokenizer, max_length)
    if not found:
        raise UserError(f"{block.name} has no text to be trained on", "correct its rows, or leave it out")
    return found, ledger


def _sources(task: Task, sizes: Mapping[str, int], replayed: Collection[str]) -> Sources:
    """Whose rows these are; of a mixture each with its rate, and what is replayed once an epoch as it always is."""
    if task.mixture is None:
        return Sources(sizes)
    own = {name: size for name, size in sizes.items() if name not in replayed}
    n_drawn = task.mixture.config.draws(own)
    rates = dict(zip(own, task.mixture.config.rates(own), strict=True))
    draws = [rates[name] * n_drawn if name in own else float(size) for name, size in sizes.items()]
    return Sources(sizes, normalised(draws), round(sum(draws)))
