"""d₉₀: the smallest dimension in which training reaches 90 % of what full fine-tuning does.

Li et al. 2018, arXiv:1804.08838; for language models Aghajanyan et al. 2021, arXiv:2012.13255, whose structure-aware
projection (SAID) is the default here.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunewise import files
from tunewise.comparison.grid import compare
from tunewise.errors import UserError

logger = logging.getLogger(__name__)

RESULT = "intrinsic_dimension.json"
HALVINGS = 2  # of the last doubling, on a logarithmic scale: the answer is within 2 ** (1 / 4), 19 %
LOWER_IS_BETTER = ("loss", "perplexity")


def intrinsic_dimension(
    data: str | Mapping[str, Any],
    *,
    model: str = "tiny",
    share: float = 0.9,
    between: tuple[int, int] = (32, 32_768),
    seeds: Sequence[int] = (0,),
    out: str | Path = "runs/intrinsic-dimension",
    full: Mapping[str, Any] | None = None,
    intrinsic: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The smallest d `between` two that reaches `share` of full fine-tuning's main metric on dev, by mean over seeds.

    `full` and `intrinsic` are recipe fields of either side, {"train": {"learning_rate": 1e-3}}; both should have the
    rate that suits them. d is doubled until it reaches, then the last step is halved. Every run is a folder below
    `out`; a search that was stopped goes on from those. Returns, and writes to intrinsic_dimension.json: metric, full,
    target, points (d and its metric), and dimension, None where even the largest d stays below. Raises UserError
    where there are no dev rows, or the metric is better when lower.
    """
    if not 0 < share <= 1:
        raise UserError(f"share={share} is no share of full fine-tuning", "use a number above 0, up to 1")
    smallest, largest = between
    arms: dict[str, dict[str, Any]] = {}

    def measured(label: str, method: dict[str, Any], fields: Mapping[str, Any] | None) -> tuple[str, float]:
        arms[label] = {**(fields or {}), "method": method}
        found = compare(data, model=model, methods={label: arms[label]}, seeds=seeds, out=out)
        metric, value = _dev(Path(out), found["arms"][0])
        logger.info("%s: %s %.1f on dev", label, metric, value)
        return metric, value

    def reached(dimension: int) -> float:
        method = {"name": "intrinsic", **dict((intrinsic or {}).get("method", {})), "dimension": dimension}
        return measured(f"d = {dimension}", method, intrinsic)[1]

    metric, best = measured("full", {"name": "full"}, full)
    points, dimension = search(reached, share * best, smallest, largest)
    compare(data, model=model, methods=arms, seeds=seeds, out=out)  # all of them in one table; nothing runs again
    found = {
        "metric": metric,
        "share": share,
        "full": best,
        "target": share * best,
        "points": [{"dimension": d, "value": value} for d, value in sorted(points.items())],
        "dimension": dimension,
        "seeds": list(seeds),
    }
    files.write_json(Path(out) / RESULT, found)
    return found


def search(
    reached: Callable[[int], float], target: float, smallest: int, largest: int
) -> tuple[dict[int, float], int | None]:
    """Every d that was tried with its value, and the smallest of them that reaches the target."""
    points = {smallest: reached(smallest)}
    d = smallest
    while points[d] < target and d < largest:
        d = min(2 * d, largest)
        points[d] = reached(d)
    if points[d] < target:
        return points, None
    below = max((tried for tried in points if tried < d), default=d)
    for _ in range(HALVINGS if below < d else 0):
        middle = round((below * d) ** 0.5)
        if middle in points:
            break
        points[middle] = reached(middle)
        below, d = (below, middle) if points[middle] >= target else (middle, d)
    return points, d


def _dev(root: Path, arm: Mapping[str, Any]) -> tuple[str, float]:
    """The main metric on dev of one arm: its name, and the mean over the seeds."""
    values = []
    for seed in arm["seeds"]:
        metrics = files.read_json(root / arm["folder"] / f"seed{seed}" / "metrics.json")
        assert isinstance(metrics, dict)
        if not metrics["dev"]:
            raise UserError("the search needs dev rows, and there are none", "add a dev file to the task's folder")
        name, value = next(iter(metrics["dev"].items()))
        if name in LOWER_IS_BETTER:
            raise UserError(f"the main metric is {name}, of which no share can be reached", "use a task with answers")
        values.append(value)
    return name, sum(values) / len(values)
