"""Rows of a held-out part that stand in train as well.

Two rows are the same where they are asked the same. Rows of one task are rendered alike, so that their prompts tell;
those of two tasks are not, and there it is what fills the prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tunewise.data.examples import Example, Note
from tunewise.data.splits import text_key
from tunewise.data.streamed import Keys, Lookup, Streamed, leaks, telling


def shared(train: Sequence[str], held_out: Sequence[str]) -> list[tuple[int, int]]:
    """(number of the held-out text, of the first of train that is the same)."""
    wanted = set(held_out)
    first: dict[str, int] = {}
    for number, text in enumerate(train):
        if text in wanted:
            first.setdefault(text, number)
    return [(number, first[text]) for number, text in enumerate(held_out) if text in first]


def find_leaks(train: Sequence[Example], held_out: Sequence[Example], name: str = "test") -> tuple[Note, ...]:
    """One note for each held-out example whose text (letter case and white space aside) is also one of train's.

    What is compared is the prompt, as that is what the model is asked; the whole text where prompts tell nothing apart.
    Of examples with a group also one for each whose group has rows in train.
    """
    if isinstance(train, Streamed):
        return leaks(train, held_out, name)
    key = text_key([*train, *held_out])
    copies = tuple(
        Note(held_out[number].line, f"this row of {name} is also in train, line {train[twin].line}")
        for number, twin in shared(list(map(key, train)), list(map(key, held_out)))
    )
    groups = {example.group: example.line for example in reversed(train) if example.group}
    return copies + tuple(
        Note(
            example.line,
            f"{example.group!r}, the group of this row in {name}, has rows in train too, line {groups[example.group]}",
        )
        for example in held_out
        if example.group in groups
    )


def find_leaks_between(
    trained: Mapping[str, Sequence[Example]], held_out: Mapping[tuple[str, str], Sequence[Example]]
) -> tuple[Note, ...]:
    """One note for each held-out example ((task, part) -> examples) that stands in train of another task, by name.

    What is compared is what is asked, letter case and white space aside, without the words of either template, or with
    those of both; the whole text where neither tells the rows of both apart.
    """
    every = (*trained.values(), *held_out.values())
    seed = next((one.source.seed for one in every if isinstance(one, Streamed)), 0)
    known = {name: _Asked(Keys.of(examples, seed)) for name, examples in trained.items()}
    notes: list[Note] = []
    for (name, part), examples in held_out.items():
        held = _Asked(Keys.of(examples, seed))
        found: dict[int, str] = {}
        for other, seen in known.items():
            if other != name:
                lines = seen.lines_of(held)
                found = {place: f"train of {other}, line {line}" for place, line in lines.items()} | found
        told = " of ".join(filter(None, (part, name)))
        notes += [
            Note(int(held.keys.line[place]), f"this row of {told} is also in {where}")
            for place, where in sorted(found.items())
        ]
    return tuple(notes)


class _Asked:
    """Rows of one task, and which of their keys tell them apart."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.telling = {name for name in ("asked", "prompt") if telling(vars(keys)[name], keys.text)}
        self._lookups: dict[str, Lookup] = {}

    def lines_of(self, held: _Asked) -> dict[int, int]:
        """Place of a held-out row -> line of the first of these rows that is the same."""
        found: dict[int, int] = {}
        for key in sorted(self.telling & held.telling) or ["text"]:
            if key not in self._lookups:
                self._lookups[key] = Lookup(vars(self.keys)[key], self.keys.line)
            found = self._lookups[key].found(vars(held.keys)[key]) | found
        return found
