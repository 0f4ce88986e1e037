"""Examples that are built when they are asked for, from the places of their rows in a big jsonl file.

What is in memory: nothing of a row. What is known of all rows lies in mapped columns of numbers (`Index`), so that
splits, samples and leaks come out as they do of examples that are all there.
"""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import overload

import numpy as np

from tunewise.data.examples import Example, Note
from tunewise.data.readers import Row, fields_of
from tunewise.data.splits import Unread, digest_number, few_shot, normalised, sizes_of
from tunewise.errors import UserError

Numbers = np.ndarray


@dataclass(frozen=True)
class Index:
    """A column each, with a number for every row that is an example; texts are told by 64 bits of their digest."""

    offset: Numbers
    size: Numbers
    """Bytes of the line, without its end."""
    line: Numbers
    prompt: Numbers
    """The normalised prompt, by the seed of the split."""
    text: Numbers
    """The normalised whole text, likewise."""
    asked: Numbers
    """What is asked without the words of a template, likewise."""
    label: Numbers


@dataclass(frozen=True)
class Source:
    """A file with its index, and how a row of it becomes an example."""

    path: Path
    state: tuple[int, int]
    """Size and time of the file's last change, as its index has it."""
    index: Index
    make: Callable[[Row], Example]
    mark: str
    """A digest of the file and of all that `make` depends on."""
    seed: int
    has_own_ids: bool = False
    """Where a row has the column `id`, and no two the same; else its id is the name of the file and its line."""
    witnesses: tuple[int, ...] = ()
    """Rows that show what any row of the file has: each label, the longest answer, a blank line in one."""

    @cached_property
    def _descriptor(self) -> int:
        return os.open(self.path, os.O_RDONLY)

    def example(self, number: int) -> Example:
        """The example of that row, read anew; UserError where the file has changed since it was indexed."""
        if state_of(self._descriptor) != self.state:
            raise UserError(f"{self.path} has changed while it was used", "run the same command again")
        content = os.pread(self._descriptor, int(self.index.size[number]), int(self.index.offset[number]))
        line = int(self.index.line[number])
        return self.make(Row(line, fields_of(self.path, line, json.loads(content.decode("utf-8-sig")))))


def state_of(file: Path | int) -> tuple[int, int]:
    """By which a change of a file, or of one that is open, is noticed."""
    found = os.fstat(file) if isinstance(file, int) else file.stat()
    return found.st_size, found.st_mtime_ns


class Streamed(Unread):
    """Some rows of a file, by number; two of the same rows are equal."""

    def __init__(self, source: Source, numbers: Numbers) -> None:
        self.source, self.numbers = source, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self.source.example(number) for number in self.numbers[index].tolist()]
        return self.source.example(int(self.numbers[range(len(self))[index]]))

    def __iter__(self) -> Iterator[Example]:
        for number in self.numbers:
            yield self.source.example(number)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Streamed):
            return NotImplemented
        return self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @cached_property
    def digest(self) -> str:
        """Of the rows, and of how they become examples."""
        return hashlib.sha256(self.source.mark.encode() + self.numbers.astype(np.int64).tobytes()).hexdigest()

    @cached_property
    def witnesses(self) -> list[Example]:
        """Rows of the file that show what any of them has."""
        return [self.source.example(number) for number in self.source.witnesses]

    def only(self, places: Sequence[int] | Numbers) -> Streamed:
        """The rows at these places of it, in file order."""
        return Streamed(self.source, self.numbers[np.sort(places)])

    def column(self, name: str) -> Numbers:
        """What the index knows of each row under that name."""
        return vars(self.source.index)[name][self.numbers]

    def key(self) -> str:
        """The column that tells its rows apart, as `splits.text_key` says."""
        return "prompt" if telling(self.column("prompt"), self.column("text")) else "text"

    def split(self, shares: Sequence[float], most: int) -> list[Streamed]:
        """As `splits.split`, but of at most `most` texts in any part but the first."""
        keys, labels = self.column(self.key()), self.column("label")
        groups, first, of_row = np.unique(keys, return_index=True, return_inverse=True)  # in the order of digests
        sizes = [min(size, most) for size in sizes_of(len(groups), shares)]
        ranked = _spread(groups, labels[first], even=True)
        part = np.zeros(len(groups), np.int8)
        start = len(groups) - sum(sizes)
        for number, size in enumerate(sizes, start=1):
            part[ranked[start : start + size]] = number
            start += size
        of_row = part[of_row]
        return [Streamed(self.source, self.numbers[of_row == number]) for number in range(len(shares))]

    def drawn(self, k: int, seed: int, *, balanced: bool) -> Numbers:
        """The places of the rows that `splits.few_shot` takes, in its order."""
        digests = np.fromiter((digest_number(seed, name) for name in self._names()), np.uint64, len(self))
        chosen = _spread(digests, self.column("label"), even=not balanced)[:k]
        names = dict(zip(np.sort(chosen).tolist(), (one.id for one in self.only(chosen)), strict=True))
        order = sorted(chosen.tolist(), key=lambda place: digest_number(seed + 1, f"{names[place]}\0{place}"))
        return np.array(order, np.int64)

    def _names(self) -> Iterator[str]:
        """What tells a row apart from all others of this part."""
        if self.source.has_own_ids:
            yield from (f"{example.id}\0{place}" for place, example in enumerate(self))
            return
        stem = self.source.path.stem
        yield from (f"{stem}:{line}\0{place}" for place, line in enumerate(self.column("line").tolist()))


class Named(Sequence[Example]):
    """Examples of several sources, which come to know their source when they are asked for: none is held twice."""

    def __init__(self, parts: Mapping[str, Sequence[Example]]) -> None:
        self._parts = list(parts.items())
        self._ends = list(accumulate(len(part) for part in parts.values()))

    @property
    def witnesses(self) -> list[Example]:
        """Examples that show what any of them has."""
        return [one for _, part in self._parts for one in witnesses_of(part)]

    def __len__(self) -> int:
        return self._ends[-1]

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Example, ...]: ...
    def __getitem__(self, index: int | slice) -> Example | tuple[Example, ...]:
        if isinstance(index, slice):
            return tuple(self[place] for place in range(*index.indices(len(self))))
        place = range(len(self))[index]
        number = bisect_right(self._ends, place)
        name, part = self._parts[number]
        return replace(part[place - self._ends[number] + len(part)], source=name)


def frozen(examples: Sequence[Example]) -> Sequence[Example]:
    """A part of a task: as it is where its rows are read when asked for, else a tuple."""
    return examples if isinstance(examples, Streamed) else tuple(examples)


def witnesses_of(examples: Sequence[Example]) -> Sequence[Example]:
    """All of them, or where they are not read whole those that show what any has."""
    return examples.witnesses if isinstance(examples, Streamed | Named) else examples


def leaks(train: Streamed, held_out: Sequence[Example], name: str) -> tuple[Note, ...]:
    """As `leaks.find_leaks`."""
    own, held = Keys.of(train, train.source.seed), Keys.of(held_out, train.source.seed)
    both = [np.concatenate([vars(own)[key], vars(held)[key]]) for key in ("prompt", "text")]
    key = "prompt" if telling(*both) else "text"
    found = Lookup(vars(own)[key], own.line).found(vars(held)[key])
    return tuple(
        Note(int(held.line[place]), f"this row of {name} is also in train, line {line}")
        for place, line in found.items()
    )


@dataclass(frozen=True)
class Keys:
    """What examples are told by, as numbers, and their lines."""

    line: Numbers
    prompt: Numbers
    text: Numbers
    asked: Numbers

    @classmethod
    def of(cls, examples: Sequence[Example], seed: int) -> Keys:
        """Of a big file with this seed without reading it."""
        if isinstance(examples, Streamed) and examples.source.seed == seed:
            return cls(*map(examples.column, ("line", "prompt", "text", "asked")))
        lines, numbers = array("q"), array("Q")
        for example in examples:
            lines.append(example.line)
            numbers.extend(numbers_of(example, seed))
        return cls(np.array(lines), *np.array(numbers, np.uint64).reshape(-1, 3).T)


class Lookup:
    """Which of many numbers are among these, and the line of the first that has each."""

    def __init__(self, numbers: Numbers, lines: Numbers) -> None:
        self._known, first = np.unique(numbers, return_index=True)
        self._lines = lines[first]

    def found(self, numbers: Numbers) -> dict[int, int]:
        """Place in `numbers` -> line, of those that are among them."""
        if not len(self._known):
            return {}
        places = np.searchsorted(self._known, numbers).clip(max=len(self._known) - 1)
        found = np.flatnonzero(self._known[places] == numbers)
        return dict(zip(found.tolist(), self._lines[places[found]].tolist(), strict=True))


def numbers_of(example: Example, seed: int) -> tuple[int, int, int]:
    """Digests of the prompt, of the whole text and of what is asked, letter case and white space aside."""
    prompt, text, asked = map(normalised, (example.prompt, example.text, example.asked))
    first, second = digest_number(seed, prompt), digest_number(seed, text)
    known = {prompt: first, text: second}
    return first, second, known[asked] if asked in known else digest_number(seed, asked)


def some_of(examples: Sequence[Example], n: int | None, seed: int) -> Sequence[Example]:
    """So many of these at most, labels in their shares, in their order; None takes all."""
    if n is None or n >= len(examples):
        return examples
    if isinstance(examples, Streamed):  # which makes a row anew whenever it is asked for
        return examples.only(examples.drawn(n, seed, balanced=False))
    chosen = {id(example) for example in few_shot(examples, n, seed, balanced=False)}
    return tuple(example for example in examples if id(example) in chosen)


def telling(asked: Numbers, texts: Numbers) -> bool:
    """Whether what is asked tells rows apart, or is shared by many of them."""
    return 2 * len(np.unique(asked)) > len(np.unique(texts))


def _spread(digests: Numbers, labels: Numbers, *, even: bool) -> Numbers:
    """Places in random order by digest; labels `even`ly over every stretch, or else taking turns while they last."""
    order = np.lexsort((digests, labels))
    _, start, count = np.unique(labels[order], return_index=True, return_counts=True)
    within = np.arange(len(order)) - np.repeat(start, count)
    ranks = np.empty(len(order))
    ranks[order] = (within + 0.5) / np.repeat(count, count) if even else within
    return np.lexsort((digests, ranks))
