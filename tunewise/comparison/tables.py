"""The metrics of many runs as one row an arm: means with 95 % t intervals over the seeds."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunewise.files import read_json
from tunewise.stats import mean_interval

COSTS = ("n_trainable", "adapter_bytes", "seconds", "train_seconds", "peak_bytes", "tokens_per_second")


def rows_of(arms: Mapping[str, Sequence[Path]]) -> list[dict[str, Any]]:
    """One row for each arm (label -> its metrics.json files): quality and forgetting as intervals, costs as means.

    peak_bytes is the largest of the seeds. An interval is {"mean", "half_width", "n"}; the half width of a single
    value is None, as nothing is known of it. Of an arm without files nothing is known but its label.
    """
    return [_row(label, [_read(path) for path in paths]) for label, paths in arms.items()]


def _row(label: str, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if not runs:
        return {
            "arm": label,
            "method": None,
            "test": {},
            "forgetting": None,
            **dict.fromkeys(COSTS),
            "failed_proofs": [],
        }
    changes = [run["retention"]["change"] for run in runs if run.get("retention")]
    costs = {name: sum(run[name] for run in runs) / len(runs) for name in COSTS}
    costs["peak_bytes"] = max(run["peak_bytes"] for run in runs)
    failed = sorted({name for run in runs for name, proof in run["proofs"].items() if not proof["passed"]})
    return {
        "arm": label,
        "method": runs[0]["method"],
        "test": {name: _interval([run["test"][name] for run in runs]) for name in runs[0]["test"]},
        "forgetting": _interval(changes) if changes else None,
        **costs,
        "failed_proofs": failed,
    }


def _interval(values: Sequence[float]) -> dict[str, float | int | None]:
    found = mean_interval(values)
    half_width = found.half_width if math.isfinite(found.half_width) else None
    return {"mean": found.mean, "half_width": half_width, "n": found.n}


def _read(path: Path) -> dict[str, Any]:
    content = read_json(path)
    assert isinstance(content, dict), path
    return content
