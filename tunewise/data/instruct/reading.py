"""Rows of an instruction set, as they are read again: a prompt, a completion, and the answers that can be chosen."""

from collections.abc import Sequence

from tunewise.data.choices import letter, texts_in
from tunewise.data.examples import Example
from tunewise.data.readers import Row
from tunewise.data.shapes import Kind, Shape

OPTIONS, ACCEPTED = "options", "accepted"
"""Columns beside a prompt and a completion: answers of which one is right, and answers that all are."""
CLUSTER, TEMPLATE, FORM = "cluster", "template", "form"
"""Columns that say how a row of a set was asked."""


def options_of(row: Row, answer: str) -> tuple[str | None, tuple[str, ...]]:
    """(letter of the right one, the answers that can be chosen) of a row; (None, ()) where its answer is free.

    `answer` is the completion as it follows the prompt; white space before it stands before the others as well.
    """
    texts = [text.strip() for text in texts_in(row.fields.get(OPTIONS, ""))]
    bare = answer.strip()
    if len(texts) < 2 or bare not in texts:
        return None, ()
    before = answer[: len(answer) - len(answer.lstrip())]
    return letter(texts.index(bare)), tuple(f"{before}{text}" for text in texts)


def accepted_of(row: Row) -> tuple[str, ...]:
    """The right answers that a row lists, beside which its completion is only the first."""
    return tuple(dict.fromkeys(text.strip() for text in texts_in(row.fields.get(ACCEPTED, ""))))


def mould_of(row: Row) -> str:
    """By which template and in which form a row of an instruction set is asked; "" of any other row."""
    named = [row.fields.get(name) for name in (CLUSTER, TEMPLATE, FORM)]
    return " ".join(map(str, named)) if all(isinstance(each, str) for each in named) else ""


def kind_of(shape: Shape, dev: Sequence[Example], test: Sequence[Example]) -> Kind:
    """What the rows are judged as: by the answers that can be chosen, where every row of dev and test has some."""
    held_out = [*dev, *test]
    chosen = shape.name == "prompt and completion" and held_out and all(example.choices for example in held_out)
    return "multiple_choice" if chosen else shape.kind
