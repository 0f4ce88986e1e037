"""Whoever follows a comparison: which runs there are, when each begins and ends, and the steps of those under way."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tunewise.comparison.outcome import Outcome
from tunewise.data.task import Task
from tunewise.run import Recipe
from tunewise.training.progress import Silent, Watcher

FORWARD_AND_BACKWARD = 3.0
"""What reading a row in training costs, in rows that are read for an answer: the backward takes twice the forward."""


@dataclass(frozen=True)
class Planned:
    """One run of a comparison before it begins, and what it will read: rows, which have about the same length in all
    arms of one task, so that they compare as tokens do."""

    label: str
    """Arm and seed."""
    arm: str
    done: bool = False
    """Before this comparison began."""
    training: float = 0.0
    """Rows read in training, each counted as the forwards that it costs."""
    evaluation: float = 0.0
    """Rows read for answers, on dev and on test, each with its demonstrations."""

    @property
    def work(self) -> float:
        return self.training + self.evaluation


class GridWatcher(Protocol):
    """Follows a comparison; runs are told by their place among those planned. Calls may come from another thread."""

    def planned(self, runs: Sequence[Planned], n_workers: int) -> None:
        """All runs, before the first begins, and how many processes carry them out."""

    def begins(self, numbers: Sequence[int]) -> Watcher:
        """These runs begin, in one batch where there are several; who follows their steps."""

    def puts_off(self, numbers: Sequence[int]) -> None:
        """These runs did not begin after all: another process is at one of them."""

    def ends(self, number: int, outcome: Outcome) -> None:
        """A run has ended, or was done before."""


class Unfollowed:
    """Follows nothing."""

    def planned(self, runs: Sequence[Planned], n_workers: int) -> None:
        pass

    def begins(self, numbers: Sequence[int]) -> Watcher:
        return Silent()

    def puts_off(self, numbers: Sequence[int]) -> None:
        pass

    def ends(self, number: int, outcome: Outcome) -> None:
        pass


def work_of(recipe: Recipe, task: Task, trains: bool) -> Mapping[str, float]:
    """What a run of `recipe` reads, as fields of Planned; a method that does not train only answers."""
    config, n_train = recipe.train, recipe.data.n_drawn(task.n_train)
    n_read = config.epochs * n_train if config.steps is None else config.steps * config.batch_size * config.accumulation
    n_looks = 1.0
    if trains and n_train and config.evaluate_every is not None:
        n_looks = max(1.0, n_read / n_train / config.evaluate_every)
    answers = (n_looks * len(task.dev) + len(task.test)) * (1 + recipe.in_context.shots)
    return {"training": FORWARD_AND_BACKWARD * n_read * trains, "evaluation": answers}
