"""Rows of a held-out part that stand in train as well."""

from collections.abc import Sequence

from tunewise.data.examples import Example, Note
from tunewise.data.splits import text_key
from tunewise.data.streamed import Streamed, leaks


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
