"""What of a training row is trained: its answers, the last of them alone, or all of its text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

from tunewise.data.examples import Example

TrainedOn = Literal["answers", "last_answer", "everything"]


def trained_on(examples: Sequence[Example], what: TrainedOn) -> tuple[Example, ...]:
    """The training examples with the parts marked that are trained; answers that stand apart become examples."""
    return tuple(one for example in examples for one in _marked(example, what))


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
