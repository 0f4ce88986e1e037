"""`tunewise plan --grade`: what the planner said of runs, beside what they measured, over all of them so far."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tunewise.errors import UserError
from tunewise.planning.left_out import SHORT, TIME
from tunewise.report.folders import Run, read_runs
from tunewise.report.proof_table import NAMES

PlanNow = Callable[[str, Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]
"""The base's name, the method, and what the run was trained on -> what is planned of it now."""
HARD = ("train_memory_bytes", "train_seconds")
"""Those of which a plan can be wrong: the others are counted."""


@dataclass(frozen=True)
class Point:
    """One figure of one run."""

    run: str
    method: str
    quantity: str
    planned: float
    measured: float

    @property
    def error(self) -> float:
        """Of the plan, as a share of what was measured: above 0 where too much was planned."""
        return (self.planned - self.measured) / self.measured


@dataclass(frozen=True)
class Graded:
    """The errors of some points."""

    quantity: str
    method: str
    """ "" for all of them."""
    n: int
    median: float
    """Of the errors without their signs."""
    worst: float
    """The error that is furthest from zero, with its sign."""
    lean: float
    """The median error, with its sign."""


@dataclass(frozen=True)
class PlannerGrade:
    """Everything that there is to be said."""

    points: tuple[Point, ...]
    n_runs: int
    n_planned_now: int
    """Runs that were too short to wait for the planner, which has planned them now."""
    left_out: Mapping[str, int]
    """What of a run is not graded, and why -> such runs: "memory and time: 3 runs shared its batches, ..."."""

    def by_quantity(self) -> list[Graded]:
        return [_graded(each, "", self.points) for each in NAMES if any(p.quantity == each for p in self.points)]

    def by_method(self) -> list[Graded]:
        """Memory and time, the worst method first."""
        found = []
        for quantity in HARD:
            methods = dict.fromkeys(point.method for point in self.points if point.quantity == quantity)
            graded = [_graded(quantity, method, self.points) for method in methods]
            found += sorted(graded, key=lambda each: -abs(each.worst))
        return found

    def as_data(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {
            "n_runs": self.n_runs,
            "n_planned_now": self.n_planned_now,
            "left_out": dict(self.left_out),
            "by_quantity": [vars(each) for each in self.by_quantity()],
            "by_method": [vars(each) for each in self.by_method()],
            "points": [{**vars(point), "error": point.error} for point in self.points],
        }


def grade(folders: Sequence[Path], plan_now: PlanNow) -> PlannerGrade:
    """Of every finished run in these folders that has trained something.

    A run that was too short to wait for the planner is planned now, from what it kept of its batches, where its base
    is still to be found: `plan_now` does that, as `planned_now` of `tunewise.run.planned`, which needs torch. UserError
    where a folder has no finished run, and where none was planned.
    """
    points: list[Point] = []
    left_out: Counter[str] = Counter()
    n_runs = n_planned_now = 0
    for run in {run.folder.resolve(): run for folder in folders for run in read_runs(folder)}.values():
        plan = run.metrics.get("planned")
        if not plan:
            continue
        n_runs += 1
        reason = plan.get("left_out", "it was planned by an earlier version")
        if reason == SHORT:
            told, reason = _planned_now(run, plan_now)
            plan, n_planned_now = {**plan, **told}, n_planned_now + bool(told)
        if reason:
            left_out[f"{'memory' if plan.get(TIME) else 'memory and time'}: {reason}"] += 1
        points += _points(run, plan)
    if not n_runs:
        where = ", ".join(map(str, folders))
        raise UserError(f"no run in {where} has trained anything", "tunewise train --data tiny:sentiment --method lora")
    return PlannerGrade(tuple(points), n_runs, n_planned_now, left_out)


def _points(run: Run, plan: Mapping[str, Any]) -> Iterable[Point]:
    for quantity in NAMES:
        told, was = plan.get(quantity), run.metrics.get(quantity)
        if told and was:
            yield Point(str(run.folder), str(run.method["name"]), quantity, float(told), float(was))


def _planned_now(run: Run, plan_now: PlanNow) -> tuple[dict[str, Any], str]:
    """Memory and time of a run by the planner of today, or the reason why there are none."""
    try:
        return plan_now(str(run.recipe["model"]), run.method, run.metrics["planned"]["trained_on"]), ""
    except UserError as error:
        return {}, error.message


def _graded(quantity: str, method: str, points: Sequence[Point]) -> Graded:
    errors = [p.error for p in points if p.quantity == quantity and method in ("", p.method)]
    return Graded(quantity, method, len(errors), median(map(abs, errors)), max(errors, key=abs), median(errors))
