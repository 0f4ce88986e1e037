"""The arms of a comparison as a flat table: one row an arm, for a spreadsheet or a paper."""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunewise import files
from tunewise.errors import UserError
from tunewise.report.arms import Arm, DivergedArm
from tunewise.report.decision import Decision

SPREADSHEETS = (".xlsx", ".xls", ".ods")


def table_of(arms: Sequence[Arm], decision: Decision, diverged: Sequence[DivergedArm] = ()) -> list[dict[str, Any]]:
    """Arm, method, seeds, standing, each test metric and forgetting with the half width of its 95 % interval, costs.

    A half width is None for one seed, of which nothing is known. Arms without any result have their label alone.
    """
    rows = [_row(arm, decision) for arm in arms]
    lost = [each for each in diverged if each.n_diverged == each.n_seeds]
    return rows + [{"arm": each.label, "standing": each.told} for each in lost]


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """The rows as a csv file; a column for every field of any row, empty where a row has none.

    UserError for a name of a spreadsheet, which would open no text.
    """
    if path.suffix.lower() in SPREADSHEETS:
        raise UserError(f"{path.name} would be a csv file by another name", f"--csv {path.with_suffix('.csv')}")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write_text(path, text.getvalue())
    return path


def _row(arm: Arm, decision: Decision) -> dict[str, Any]:
    verdict = decision.verdict
    groups = (("equal", verdict.equal), ("open", verdict.open), ("worse", verdict.worse), ("best", (verdict.best,)))
    lost = f"{arm.n_diverged} seeds diverged" if arm.n_diverged else ""
    standing = next((name for name, labels in groups if arm.label in labels), lost)
    row: dict[str, Any] = {
        "arm": arm.label,
        "method": arm.runs[0].method.get("name"),
        "seeds": " ".join(map(str, arm.seeds)),
        "taken": arm is decision.pick and decision.learnt,
        "standing": standing,
    }
    shared = [name for name in arm.runs[0].metrics["test"] if all(name in run.metrics["test"] for run in arm.runs)]
    for name in shared:
        found = arm.interval_of(name)
        row |= {name: found.mean, f"{name}_half_width": _known(found.half_width)}
    forgetting = arm.forgetting
    row |= {
        "forgetting": None if forgetting is None else forgetting.mean,
        "forgetting_half_width": None if forgetting is None else _known(forgetting.half_width),
        "base": arm.base_format,
        "base_bytes": arm.base_bytes,
        "n_trainable": arm.n_trainable,
        "adapter_bytes": arm.adapter_bytes,
        "seconds": arm.seconds,
        "train_seconds": arm.train_seconds,
        "peak_bytes": arm.peak_bytes,
        "failed_proofs": " ".join(
            sorted({name for run in arm.runs for name, proof in run.proofs().items() if not proof.get("passed")})
        ),
    }
    return row


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
