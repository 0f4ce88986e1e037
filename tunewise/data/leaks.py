"""Rows of a held-out part that stand in train as well."""

from collections.abc import Sequence

from tunewise.data.examples import Example, Note
from tunewise.data.splits import text_key


def shared_rows(train: Sequence[Example], held_out: Sequence[Example]) -> list[tuple[int, int]]:
    """(number of the held-out example, of the first of train) of those whose texts, letter case and white space aside,
    are the same.

    What is compared is the prompt, as that is what the model is asked; the whole text where prompts tell nothing apart.
    """
    key = text_key([*train, *held_out])
    keys = [key(example) for example in train]
    first = {text: number for number, text in reversed(list(enumerate(keys)))}
    held = ((number, first.get(key(example))) for number, example in enumerate(held_out))
    return [(number, twin) for number, twin in held if twin is not None]


def find_leaks(train: Sequence[Example], held_out: Sequence[Example], name: str = "test") -> tuple[Note, ...]:
    """One note for each held-out example that stands in train as well."""
    return tuple(
        Note(held_out[number].line, f"this row of {name} is also in train, line {train[twin].line}")
        for number, twin in shared_rows(train, held_out)
    )
