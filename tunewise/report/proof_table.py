"""What the runs proved about themselves, and how far what was planned is from what was measured."""

from collections.abc import Sequence
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


PLANNED = {"n_trainable": words.count, "adapter_bytes": words.size, "peak_bytes": words.size, "seconds": words.duration}
NAMES = {
    "n_trainable": "trained parameters",
    "adapter_bytes": "adapter on disk",
    "peak_bytes": "peak memory",
    "seconds": "time",
}


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
        plans = [run.metrics["planned"] for run in arm.runs if run.metrics.get("planned")]
        if not plans or not arm.n_trainable:
            continue
        for name, written in PLANNED.items():
            known = [plan[name] for plan in plans if plan.get(name) is not None]
            measured = [run.metrics[name] for run in arm.runs if run.metrics.get(name)]
            if known and measured:
                planned, was = fmean(known), fmean(measured)
                error = f"{100 * (planned - was) / was:+.1f} %".replace("-", "−")
                exact = planned == was
                told = "exact" if exact else error
                grades.append(Grade(arm.label, NAMES[name], written(round(planned)), written(round(was)), told))
    return grades
