"""How a base reads the rows: their ids and labels, whole and at the length that a run would cut them to."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from tunewise.data.encode import MASKED, Encoded, Ids
from tunewise.data.examples import Example, Ledger, Part
from tunewise.data.trained_on import each_answer
from tunewise.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tunewise.data.task import Task

Ints = NDArray[np.int64]
Encoder = Callable[[Sequence[Example], int], tuple[Sequence[Encoded], Ledger]]
Way = Literal["one sequence", "read and written", "classified"]
"""Of a decoder that writes, of an encoder-decoder, and of a classifier on top."""


_FITS = Example("fits", (Part("a", False), Part("a", True)))


@dataclass(frozen=True)
class Flat:
    """Ids and labels of many rows behind one another; those of row i from `starts[i]` to `starts[i + 1]`."""

    ids: Ints
    starts: Ints
    labels: Ints
    label_starts: Ints

    @property
    def n_trained(self) -> Ints:
        """Labels of each row that are trained; the first of all is predicted from nothing."""
        running = np.concatenate([[0], np.cumsum(self.labels != MASKED)])
        return running[self.label_starts[1:]] - running[self.label_starts[:-1]]


@dataclass(frozen=True)
class PartRead:
    """A part's rows at the length they would be cut to, with the account of them."""

    examples: Sequence[Example]
    encoded: Sequence[Encoded]
    ledger: Ledger
    whole: Sequence[Encoded]
    """The same rows, and those that were rejected for their length, with nothing cut off."""
    row_of: Mapping[str, int] = field(default_factory=dict)
    """Id of an example -> number in the part of the row that it is made of."""

    @cached_property
    def flat(self) -> Flat:
        return flattened(self.encoded)

    @cached_property
    def flat_whole(self) -> Flat:
        return self.flat if self.whole is self.encoded else flattened(self.whole)


@dataclass(frozen=True)
class Reading:
    """A base's tokenizer, the lengths it allows for, and each part as it reads it."""

    model: str
    tokenizer: PreTrainedTokenizerBase
    way: Way
    max_length: int
    """Tokens to which training rows are cut."""
    context: int | None
    """Tokens that the base can read; None where it does not say."""
    parts: Mapping[str, PartRead] = field(default_factory=dict)

    def of(self, task: Task, encode: Encoder) -> Reading:
        """The same base reading this task by `encode`: training rows cut, those that are only asked whole."""
        lengths = (
            ("train", task.train, self.max_length),
            ("dev", task.dev, sys.maxsize),
            ("test", task.test, sys.maxsize),
        )
        return replace(self, parts={part: self._part(part, rows, encode, longest) for part, rows, longest in lengths})

    def _part(self, part: str, rows: Sequence[Example], encode: Encoder, longest: int) -> PartRead:
        """A base that writes one answer at a time is trained on each as a row of its own, and asked the last."""
        if self.way != "read and written":
            of_row = [(row,) for row in rows]
        else:
            of_row = [tuple(each_answer(row))[0 if part == "train" else -1 :] for row in rows]
        found = read_part([one for each in of_row for one in each], encode, longest)
        return replace(found, row_of={one.id: number for number, each in enumerate(of_row) for one in each})

    @cached_property
    def n_begin(self) -> int:
        """Tokens that every sequence begins with."""
        return len(Ids(self.tokenizer).begin) if self.way == "one sequence" else 0


def read_part(examples: Sequence[Example], encode: Encoder, max_length: int) -> PartRead:
    """The rows as `encode` makes them. Where none can be trained on, all are accounted for as rejected."""
    encoded, ledger = _encoded(examples, encode, max_length)
    kept = {row.id for row in encoded if not row.truncated}
    others = [example for example in examples if example.id not in kept]
    longer = {row.id: row for row in _encoded(others, encode, sys.maxsize)[0]} if others else {}
    whole = [*(row for row in encoded if not row.truncated), *longer.values()] if others else encoded
    return PartRead(examples, encoded, ledger, whole)


def _encoded(examples: Sequence[Example], encode: Encoder, max_length: int) -> tuple[Sequence[Encoded], Ledger]:
    if not examples:
        return [], Ledger()
    try:
        return encode(examples, max_length)
    except UserError:
        # an encoder refuses rows of which none is left; what is wrong with each is wanted here
        rows, ledger = encode([*examples, _FITS], max_length)
        return rows[:-1], replace(ledger, rows=len(examples), trained=len(rows) - 1)


def flattened(rows: Sequence[Encoded]) -> Flat:
    """Rows behind one another. Values of a regression are left out as labels."""
    lengths, n_labels = ([0, *map(len, sides)] for sides in ([r.ids for r in rows], [r.labels for r in rows]))
    ids = np.fromiter(chain.from_iterable(row.ids for row in rows), np.int64, sum(lengths))
    numbers = np.float64 if any(isinstance(row.labels[0], float) for row in rows[:1] if row.labels) else np.int64
    labels = np.fromiter(chain.from_iterable(row.labels for row in rows), numbers, sum(n_labels))
    return Flat(ids, np.cumsum(lengths), labels.astype(np.int64), np.cumsum(n_labels))
