"""What each arm forgot, task by task of the retention suite: base and tuned model, and how many items moved."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from tunewise.report import words
from tunewise.report.arms import Arm

MEANS = ("base", "tuned", "n_lost", "n_gained")


@dataclass(frozen=True)
class Forgotten:
    """One arm on one task of the suite, means over its seeds."""

    arm: Arm
    task: str
    metric: str
    before: str
    after: str
    n_items: int
    n_lost: float
    n_gained: float


def forgotten_tasks(arms: Sequence[Arm]) -> list[Forgotten]:
    """The suites that the runs' metrics.json hold, of arms that train something; [] where none was asked."""
    return [
        _row(arm, [look for look in looks if look["task"] == task])
        for arm in arms
        if arm.n_trainable
        for looks in [_looks(arm)]
        for task in dict.fromkeys(look["task"] for look in looks)
    ]


def _looks(arm: Arm) -> list[dict[str, Any]]:
    return [look for run in arm.runs for look in (run.metrics.get("retention") or {}).get("suite", ())]


def _row(arm: Arm, looks: Sequence[dict[str, Any]]) -> Forgotten:
    metric, means = looks[0]["metric"], {name: fmean(look[name] for look in looks) for name in MEANS}
    digits = words.digits(metric)
    before, after = (f"{means[name]:.{digits}f}" for name in ("base", "tuned"))
    name = "nats per token" if metric == "loss" else words.in_unit(metric)
    return Forgotten(
        arm, looks[0]["task"], name, before, after, looks[0]["n_items"], means["n_lost"], means["n_gained"]
    )
