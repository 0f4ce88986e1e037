"""Rows of a held-out part that stand in train as well."""

from collections.abc import Sequence

from tunewise.data.examples import Example, Note
from tunewise.data.splits import text_key
from tunewise.data.streamed import Streamed, leaks


def find_leaks(train: Sequence[Example], held_out: Sequence[Example], name: str = "test") -> tuple[Note, ...]:
    """One note for each held-out example whose text (letter case and white space aside) is also one of train's.

    What is compared is the prompt, as that is what the model is asked; the whole text where prompts tell nothing apart.
    """
    if isinstance(train, Streamed):
        return leaks(train, held_out, name)
    key = text_key([*train, *held_out])
    lines = {key(example): example.line for example in reversed(train)}
    return tuple(
        Note(example.line, f"this row of {name} is also in train, line {lines[key(example)]}")
        for example in held_out
        if key(example) in lines
    )
