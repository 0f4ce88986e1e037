"""What a run is asked: dev on the way, and at its end the parts of its task and what its base knew before it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from tunewise.data.examples import Example
from tunewise.data.out_of_domain import OutOfDomain
from tunewise.data.task import Task
from tunewise.engine.objectives import Objective
from tunewise.engine.trunk import Trunk
from tunewise.evaluation.asks import Asks, How, Known, RowLosses, alone, timed
from tunewise.evaluation.by_source import Prepared
from tunewise.evaluation.evaluate import Evaluation, asks_of, prepare
from tunewise.evaluation.suite import Look
from tunewise.methods.attach import Tuned
from tunewise.models.load import Base
from tunewise.run import record
from tunewise.run.forgetting import Setting, looks_at
from tunewise.run.recipe import Recipe
from tunewise.run.training_rows import rows_of
from tunewise.training.lane import FitResult


@dataclass(frozen=True)
class AtTheEnd:
    """What the state that was kept answers."""

    test: Evaluation
    dev: Evaluation | None
    """None for a task without dev."""
    elsewhere: Mapping[str, Evaluation]
    """By the names of the sets that are not of the task."""
    looks: Mapping[int, Look] = field(default_factory=dict)
    """At tasks of the retention suite, by their places there."""


@dataclass
class Answers:
    """A run as it is asked. `elsewhere` are test sets that are not of the task; what they take goes into `spent`."""

    recipe: Recipe
    base: Base
    task: Task
    tuned: Tuned
    elsewhere: Sequence[OutOfDomain]
    spent: record.Spent
    trunk: Trunk | None = None
    """What is frozen of it, where that is known."""
    dev: Prepared | None = None
    _on_dev: list[Evaluation] = field(default_factory=list)

    @property
    def how(self) -> How:
        """How it is asked."""
        return How(self.tuned.prefix_ids, packing=self.recipe.train.packing, trunk=self.trunk)

    def alone(self, asks: Asks[Known]) -> Known:
        """What `asks` comes to, its method being attached."""
        return alone(self.base, asks, self.how)

    def begin(self) -> None:
        """Have the questions of dev ready."""
        self.dev = self._prepared(self.task.dev) if self.task.dev else None

    def dev_score(self) -> Asks[float]:
        """How good the present state is on dev, higher being better."""
        assert self.dev is not None
        found = yield from self._evaluation(self.dev)
        self._on_dev.append(found)
        return found.main

    def dev_loss(self, objective: Objective, max_length: int) -> Asks[float]:
        """Nats per label token of the dev rows, as the present state has it."""
        rows = rows_of(self.base, self.task, self.task.dev, max_length)
        total, n_labels = yield RowLosses(rows, objective, self.recipe.train.batch_size)
        return total / max(1, n_labels)

    def at_the_end(self, result: FitResult | None) -> Asks[AtTheEnd]:
        """Everything of the task; dev is asked again only where this process has not seen it in the kept state."""
        test = yield from self._evaluation(self._prepared(self.task.test))
        dev = self._seen(result)
        if dev is None and self.dev is not None:
            dev = yield from self._evaluation(self.dev)
        elsewhere = {}
        for each in self.elsewhere:
            elsewhere[each.name] = yield from self._evaluation(self._prepared(each.task.test, each.task))
        return AtTheEnd(test, dev, elsewhere)

    def all_at_the_end(self, result: FitResult | None) -> Asks[AtTheEnd]:
        """The same, and what it retained, as far as asks tell that."""
        found = yield from self.at_the_end(result)
        setting = Setting.of(self.recipe, self.base, self.tuned, self.trunk)
        looks, seconds = yield from timed(looks_at(self.recipe, self.base, setting))
        self.spent.add("retention", seconds)
        return replace(found, looks=looks)

    def _seen(self, result: FitResult | None) -> Evaluation | None:
        if result is None:
            return None
        seen = zip(reversed(result.scores), reversed(self._on_dev), strict=False)
        return next((found for (step, _), found in seen if step == result.best_step), None)

    def _evaluation(self, questions: Prepared) -> Asks[Evaluation]:
        found, seconds = yield from timed(asks_of(self.base, questions, self.recipe.asking))
        self.spent.add("evaluation", seconds)
        return found

    def _prepared(self, examples: Sequence[Example], task: Task | None = None) -> Prepared:
        n_prefix, shown = len(self.tuned.prefix_ids), self.recipe.in_context
        return prepare(
            self.base, task or self.task, examples, n_prefix=n_prefix, shots=shown.shots, seed=self.recipe.seed,
            balanced=shown.balanced, calibration=shown.calibration,
        )  # fmt: skip
