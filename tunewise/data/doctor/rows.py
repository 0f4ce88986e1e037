"""What the checks look at: the rows of a task part by part, as texts, as words, and as a base reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tunewise.data.doctor.finding import N_SHOWN, Shown, excerpt
from tunewise.data.doctor.near import near_pairs
from tunewise.data.doctor.reading import Reading
from tunewise.data.doctor.words import Words, is_in, mixed, words_of
from tunewise.data.examples import Example
from tunewise.data.splits import normalised

if TYPE_CHECKING:
    from tunewise.data.task import Task

PARTS = ("train", "dev", "test")
N_TOGETHER, ALIKE = 3, 0.7
"""Rows are near each other that share so much of their sequences of so many words."""
OF_MOULD, AT_LEAST = 0.25, 3
"""Of the rows that one template asks in one form, a sequence of words that so large a part of them has, and so many, is
the template's."""
MOULD = 0.5
"""A sequence of words that so many rows have belongs to how they are asked, and tells none of them apart."""
Numbers = Sequence[int] | NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """All rows of a task, those of train first, then dev and test; `reading` is how the base reads them."""

    task: Task
    reading: Reading | None = None

    @cached_property
    def examples(self) -> tuple[Example, ...]:
        return (*self.task.train, *self.task.dev, *self.task.test)

    @cached_property
    def part(self) -> NDArray[np.int8]:
        """The number of each row's part in PARTS."""
        return np.repeat(np.arange(3, dtype=np.int8), [len(self.task.train), len(self.task.dev), len(self.task.test)])

    def of(self, part: str) -> range:
        """The numbers of the rows of a part."""
        sizes, number = (len(self.task.train), len(self.task.dev), len(self.task.test)), PARTS.index(part)
        return range(sum(sizes[:number]), sum(sizes[: number + 1]))

    @property
    def is_chat(self) -> bool:
        """Whether the rows are conversations, or written as such."""
        return self.task.chat is not None

    @property
    def is_text(self) -> bool:
        """Whether rows are texts that nothing is asked about."""
        return self.task.kind in ("language_modelling", "minimal_pairs")

    @cached_property
    def asked(self) -> list[str]:
        """What each row is asked, without the words of the template; of plain texts, the text."""
        if self.is_text:
            return ["\n".join(each.choices) or each.text for each in self.examples]
        return ["\n".join((*each.texts, *each.choices)) if each.texts else each.prompt for each in self.examples]

    @cached_property
    def answers(self) -> list[str]:
        """The label of each row, or the answer it is trained to give; of plain texts, nothing."""
        if self.is_text:
            return [""] * len(self.examples)
        return [each.answer.strip() if each.label is None or each.choices else each.label for each in self.examples]

    @cached_property
    def bodies(self) -> list[str]:
        """What each row is asked, and its answer on a line below."""
        return [f"{asked}\n{answer}" for asked, answer in zip(self.asked, self.answers, strict=True)]

    @cached_property
    def beyond_ascii(self) -> list[int]:
        """The rows that have other characters than those of ASCII."""
        return [number for number, text in enumerate(self.bodies) if not text.isascii()]

    @cached_property
    def unprintable(self) -> list[int]:
        """The rows that have characters without a shape, line ends among them."""
        both = zip(self.asked, self.answers, strict=True)
        return [number for number, (one, two) in enumerate(both) if not (one.isprintable() and two.isprintable())]

    @cached_property
    def keys(self) -> list[str]:
        """What each row is asked, letter case and white space aside."""
        return [normalised(text) for text in self.asked]

    @cached_property
    def tellers(self) -> list[str]:
        """What tells rows apart: what they are asked, and the answer too where many are asked the same."""
        n_asked = len(set(self.keys))
        if 2 * n_asked > len(self.keys):
            return self.keys
        both = [f"{key}\0{normalised(answer)}" for key, answer in zip(self.keys, self.answers, strict=True)]
        return self.keys if 2 * n_asked > len(set(both)) else both

    @cached_property
    def words(self) -> Words:
        """The words of what is asked."""
        return words_of(self.asked)

    @cached_property
    def moulds(self) -> NDArray[np.int64]:
        """The number of the template and form that ask each row, -1 of rows that are of no instruction set."""
        names = [each.mould for each in self.examples]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(filter(None, names)))}
        return np.array([numbers.get(name, -1) for name in names], np.int64)

    @cached_property
    def templates(self) -> NDArray[np.bool_]:
        """Which words of what is asked are the template's."""
        hashes, owners, places = self.words.sequences(N_TOGETHER)
        found = np.zeros(len(self.words.hashes), bool)
        at = (self.words.starts[owners] + places)[of_moulds(hashes, owners, self.moulds)]
        for step in range(N_TOGETHER):
            found[at + step] = True
        return found

    @cached_property
    def firsts(self) -> NDArray[np.int64]:
        """The first row of all that is the same as each: asked the same and, unless it is labelled, answered so."""
        keys = self.keys
        if self.task.kind == "generation":
            keys = [f"{key}\0{normalised(answer)}" for key, answer in zip(keys, self.answers, strict=True)]
        seen: dict[str, int] = {}
        return np.fromiter((seen.setdefault(key, number) for number, key in enumerate(keys)), np.int64, len(keys))

    @cached_property
    def near(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """(one, other, similarity) of rows that share `ALIKE` of their words three by three, but are not the same."""
        kept = self.firsts == np.arange(len(self.firsts))
        members, owners, _ = self.words.sequences(N_TOGETHER)
        if self.task.kind == "generation":
            answered, of, _ = words_of(self.answers).sequences(N_TOGETHER)
            # as members of their own: what one row is asked another may answer
            members, owners = np.concatenate([members, mixed(answered)]), np.concatenate([owners, of])
        ours = kept[owners]
        members, owners = members[ours], owners[ours]
        told = ~is_in(members, _moulds(members, owners, int(kept.sum())))
        told &= ~of_moulds(members, owners, self.moulds)
        return near_pairs(members[told], owners[told], len(kept), ALIKE)

    def shown(
        self, numbers: Numbers, twins: Numbers = (), around: Callable[[int], int] | None = None
    ) -> tuple[Shown, ...]:
        """The first of these rows to show, each beside its twin where `twins` has one."""
        return tuple(
            self.row(int(number), around(int(number)) if around else 0, None if twin is None else self.row(int(twin)))
            for number, twin in zip(numbers[:N_SHOWN], [*twins[:N_SHOWN], *[None] * N_SHOWN], strict=False)
        )

    def row(self, number: int, around: int = 0, twin: Shown | None = None) -> Shown:
        """One row to show; `around` is the character to be seen of what is asked and answered."""
        text, answer = self.asked[number], self.answers[number]
        told = f"{excerpt(text, around)} → {excerpt(answer)}" if answer and around < len(text) else ""
        whole = told or excerpt(f"{text} → {answer}" if answer else text, around)
        return Shown(PARTS[self.part[number]], self.examples[number].line, whole, twin)


def at_most(task: Task, n: int) -> Task:
    """The task with no more than `n` rows in a part, evenly from its beginning to its end."""

    def thinned(rows: Sequence[Example]) -> tuple[Example, ...]:
        return tuple(rows[number * len(rows) // n] for number in range(n)) if len(rows) > n else tuple(rows)

    return replace(task, train=thinned(task.train), dev=thinned(task.dev), test=thinned(task.test))


def of_moulds(members: NDArray[np.uint64], owners: NDArray[np.int64], moulds: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of these sequences, each in the row that owns it, are of the template that asks the row."""
    found = np.zeros(len(members), bool)
    inside = np.flatnonzero(moulds[owners] >= 0)
    if not len(inside):
        return found
    n_rows = np.bincount(moulds[moulds >= 0])
    pairs = np.stack([moulds[owners[inside]].astype(np.uint64), members[inside], owners[inside].astype(np.uint64)])
    once = np.unique(pairs, axis=1)[:2]  # a row that says it twice counts once
    known, counts = np.unique(once, axis=1, return_counts=True)
    common = known[:, counts >= np.maximum(AT_LEAST, OF_MOULD * n_rows[known[0].astype(np.int64)])]
    for mould in np.unique(common[0]):
        ours = inside[pairs[0] == mould]
        found[ours] = is_in(members[ours], common[1][common[0] == mould])
    return found


def _moulds(members: NDArray[np.uint64], owners: NDArray[np.int64], n_rows: int) -> NDArray[np.uint64]:
    """The sequences that more than half of the rows have, looked for in a few hundred of them."""
    step = max(1, n_rows // 400)
    looked_at = np.unique(owners)[::step]
    if len(looked_at) < 20:
        return np.zeros(0, np.uint64)
    inside = np.isin(owners, looked_at)
    pairs = np.unique(np.stack([owners[inside].astype(np.uint64), members[inside]]), axis=1)
    values, counts = np.unique(pairs[1], return_counts=True)
    return values[counts > MOULD * len(looked_at)]
