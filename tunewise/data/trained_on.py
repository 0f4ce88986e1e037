"""What of a training row is trained: its answers, the last of them alone, or all of its text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

from tunewise.data.examples import Example, Part

TrainedOn = Literal["answers", "last_answer", "everything"]


def trained_on(examples: Sequence[Example], what: TrainedOn) -> tuple[Example, ...]:
    """The training examples with the parts marked that are trained; answers that stand apart become examples."""
    return tuple(one for example in examples for one in _marked(example, what))


def each_answer(example: Example) -> Iterator[Example]:
    """Every trained part as the answer of an example of its own, behind all that stands before it; the last as it is.

    For a model that reads a prompt and writes one answer. The earlier ones have no end token: such a model has its own.
    """
    trained = [index for index, part in enumerate(example.parts) if part.trained]
    if len(trained) < 2:
        yield example
        return
    for number, last in enumerate(trained, start=1):
        before = tuple(replace(part, trained=False) for part in example.parts[:last])
        if last == trained[-1]:
            yield replace(example, parts=(*before, *example.parts[last:]))
            return
        answer = Part(example.parts[last].text.removesuffix(example.end), True)
        yield replace(example, id=f"{example.id}#{number}", parts=(*before, answer))


def _marked(example: Example, what: TrainedOn) -> Iterator[Example]:
    if what == "answers":
        yield from example.apart
        yield replace(example, apart=()) if example.apart else example
        return
    last = max((index for index, part in enumerate(example.parts) if part.trained), default=-1)
    parts = tuple(
        replace(part, trained=(what == "everything" and index <= last) or index == last)
        for index, part in enumerate(example.parts)
    )
    yield replace(example, parts=parts, apart=())
