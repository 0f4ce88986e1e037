"""What the runs proved about themselves, and how far what was planned is from what was measured."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from tunewise.report import words
from tunewise.report.arms import Arm


@dataclass(frozen=True)
class ProofTable:
    """A row a proof, a column an arm that has any."""

    names: tuple[str, ...]
    columns: tuple[tuple[Arm, tuple[dict[str, Any], ...]], ...]
    """Of each proof whether all seeds `passed` it (None: it was not tried), and the largest `value` seen."""
    n_passed: int
    n_checked: int
    left_out: tuple[tuple[str, str, str], ...]
    """(arm, proof, reason) of those that could not be tried."""


def proof_table(arms: Sequence[Arm]) -> ProofTable:
    """The proofs of all runs of these arms."""
    names = list(dict.fromkeys(name for arm in arms for run in arm.runs for name in run.proofs()))
    columns = []
    for arm in arms:
        cells = []
        for name in names:
            found = [run.proofs()[name] for run in arm.runs if name in run.proofs()]
            # a value without a tolerance is a size or an effect, not a difference
            told = [proof["value"] for proof in found if proof.get("tolerance") is not None]
            values = [value for value in told if isinstance(value, int | float)]
            passed = all(proof.get("passed") for proof in found) if found else None
            cells.append({"passed": passed, "value": max(values) if values else None})
        if any(cell["passed"] is not None for cell in cells):
            columns.append((arm, tuple(cells)))
    checked = [proof for arm in arms for run in arm.runs for proof in run.proofs().values()]
    left_out = {
        (arm.label, words.spaced(name), reason): None
        for arm in arms
        for run in arm.runs
        for name, reason in (run.metrics.get("proofs_left_out") or {}).items()
    }
    return ProofTable(
        tuple(words.spaced(name) for name in names),
        tuple(columns),
        sum(bool(proof.get("passed")) for proof in checked),
        len(checked),
        tuple(left_out),
    )


PLANNED = {
    "n_trainable": words.count,
    "adapter_bytes": words.size,
    "train_memory_bytes": words.size,
    "train_seconds": words.duration,
}
NAMES = {
    "n_trainable": "trained parameters",
    "adapter_bytes": "adapter on disk",
    "train_memory_bytes": "memory of training",
    "train_seconds": "time of training",
}
"""Of what is planned, as metrics.json calls it under `planned` and beside it."""


@dataclass(frozen=True)
class Grade:
    """One figure that was planned for an arm before anything was spent, beside what was measured."""

    label: str
    what: str
    planned: str
    measured: str
    error: str
    """Of the plan, as a share of what was measured."""


def planner_grades(arms: Sequence[Arm]) -> list[Grade]:
    """What metrics.json holds under `planned`, each figure beside its namesake; [] where nothing was planned."""
    grades = []
    for arm in arms:
        for name, written in PLANNED.items():
            both = [((run.metrics.get("planned") or {}).get(name), run.metrics.get(name)) for run in arm.runs]
            known = [(planned, measured) for planned, measured in both if planned and measured]
            if known:
                planned, was = (fmean(each) for each in zip(*known, strict=True))
                error = f"{100 * (planned - was) / was:+.1f} %".replace("-", "−")
                told = "exact" if planned == was else error
                grades.append(Grade(arm.label, NAMES[name], _written(written, planned), _written(written, was), told))
    return grades


def _written(written: Callable[[Any], str], value: float) -> str:
    return written(value if written is words.duration else round(value))
