"""Which tasks a teacher is shown with a request: drawn by the seed of the run and the place of the request alone."""

import random
from collections.abc import Sequence

from tunewise.teacher.prompts import EXAMPLES
from tunewise.teacher.rows import Row
from tunewise.teacher.seeds import Task

INSTRUCTIONS, OF_THEM_GENERATED = 8, 2
"""Instructions shown, and how many of those the teacher wrote itself: as in Self-Instruct, section 2.2."""
WHOLE, OF_WHOLE_GENERATED = 3, 1
"""Tasks shown where all of a task is asked for at once."""
WITH_EXAMPLES, LONGEST = 6, 800
"""Tasks shown of which examples are asked for, and the characters that one may have."""


class Shown:
    """What is drawn from the seed tasks.

    The tasks that are shown when examples are asked for are the same in all requests: most endpoints charge less for a
    beginning that they have read before.
    """

    def __init__(self, seeds: Sequence[Task], seed: int) -> None:
        self._seeds, self._seed = seeds, seed
        drawn = random.Random(f"{seed} examples")
        self.classes, self.others = (_of_kind(seeds, are_classes, drawn) for are_classes in (True, False))
        mixed = [*self.classes[: WITH_EXAMPLES // 2], *self.others[: WITH_EXAMPLES // 2]]
        self.mixed = drawn.sample(mixed, len(mixed))

    def instructions(self, place: str, generated: Sequence[Task]) -> list[Task]:
        """Behind which new instructions are asked for."""
        return self._draw(place, generated, INSTRUCTIONS, OF_THEM_GENERATED)

    def whole(self, place: str, generated: Sequence[Task]) -> list[Task]:
        """Behind which whole tasks are asked for."""
        return self._draw(place, generated, WHOLE, OF_WHOLE_GENERATED)

    def _draw(self, place: str, generated: Sequence[Task], n: int, n_generated: int) -> list[Task]:
        drawn = random.Random(f"{self._seed} {place}")
        shown = drawn.sample(generated, min(n_generated, len(generated)))
        shown += drawn.sample(self._seeds, min(n - len(shown), len(self._seeds)))
        return drawn.sample(shown, len(shown))


def of_different_instructions(rows: Sequence[Row]) -> list[Task]:
    """Rows as tasks, the first of each instruction, in order."""
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row.instruction, row)
    return [
        Task(row.request, row.instruction, ((row.input, row.output),), row.is_classification) for row in first.values()
    ]


def _of_kind(seeds: Sequence[Task], are_classes: bool, drawn: random.Random) -> list[Task]:
    """Short seed tasks that are classifications, or that are not; our own where there are none."""
    found = [task for task in seeds if task.is_classification is are_classes and _length(task) <= LONGEST]
    own = [task for task in EXAMPLES if bool(task.is_classification) is are_classes]
    return drawn.sample(found, min(WITH_EXAMPLES, len(found))) or own


def _length(task: Task) -> int:
    return sum(map(len, (task.instruction, *task.instances[0])))
