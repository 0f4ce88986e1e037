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
from tunewise.data.in_memory import Data, data_fields
from tunewise.directions import LOWER_IS_BETTER
from tunewise.errors import UserError
from tunewise.methods import METHODS

logger = logging.getLogger(__name__)

RESULT = "intrinsic_dimension.json"
HALVINGS = 2  # of the last doubling, on a logarithmic scale: the answer is within 2 ** (1 / 4), 19 %
Fields = Mapping[str, Any]  # of a recipe


def intrinsic_dimension(
    data: Data,
    *,
    model: str = "tiny",
    share: float = 0.9,
    between: tuple[int, int] = (32, 32_768),
    seeds: Sequence[int] = (0,),
    out: str | Path = "runs/intrinsic-dimension",
    full: Fields | Sequence[Fields] = (),
    intrinsic: Fields | Sequence[Fields] = (),
) -> dict[str, Any]:
    """The smallest d `between` two that reaches `share` of full fine-tuning's main metric on dev, by mean over seeds.

    `full` and `intrinsic` are recipe fields of either side, {"train": {"learning_rate": 1e-3}}. Of several, which
    should differ in the learning rate, the best on dev with the first seed is taken, for every d anew: one rate for all
    can make a larger d do worse than a smaller one. d is doubled until it reaches, then the last step is halved. Every
    run is a folder below `out`; a search that was stopped goes on from those. Returns, and writes to
    intrinsic_dimension.json: metric, full, target, points (d, its metric, its learning rate and what else was tried),
    and dimension, None where even the largest d stays below. Raises UserError where there are no dev rows, or the
    metric is better when lower.
    """
    if not 0 < share <= 1:
        raise UserError(f"share={share} is no share of full fine-tuning", "use a number above 0, up to 1")
    grid = _Grid(data_fields(data), model, seeds, Path(out))
    best = grid.measure("full", {"name": "full"}, full)
    points: dict[int, dict[str, Any]] = {}

    def reached(dimension: int) -> float:
        method = {"name": "intrinsic", "dimension": dimension}
        points[dimension] = {"dimension": dimension, **grid.measure(f"d = {dimension}", method, intrinsic)}
        return points[dimension]["value"]

    _, dimension = search(reached, share * best["value"], *between)
    grid.tabulate()
    found = {
        "metric": grid.metric,
        "share": share,
        "full": best["value"],
        "full_learning_rate": best["learning_rate"],
        "target": share * best["value"],
        "points": [points[d] for d in sorted(points)],
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


class _Grid:
    """The runs of a search: one arm after another on one task, each at the best of its learning rates."""

    def __init__(self, data: Data, model: str, seeds: Sequence[int], out: Path) -> None:
        self.data, self.model, self.seeds, self.out = data, model, seeds, out
        self.metric = ""
        self._chosen: dict[str, Fields] = {}

    def measure(self, label: str, method: Fields, candidates: Fields | Sequence[Fields]) -> dict[str, Any]:
        """The main metric on dev, by mean over the seeds, at the best candidate; its learning rate, and all of them."""
        several = [candidates] if isinstance(candidates, Mapping) else candidates or [{}]
        arms = [{**fields, "method": {**fields.get("method", {}), **method}} for fields in several]
        rates = [_learning_rate(arm) for arm in arms]
        first = [self._dev({f"{label}, {number}": arm}, self.seeds[:1]) for number, arm in enumerate(arms)]
        best = max(range(len(arms)), key=first.__getitem__)
        self._chosen[label] = arms[best]
        value = self._dev({label: arms[best]}, self.seeds)
        logger.info("%s: %s %.1f on dev, learning rate %g", label, self.metric, value, rates[best])
        tried = [{"learning_rate": rate, "value": value} for rate, value in zip(rates, first, strict=True)]
        return {"value": value, "learning_rate": rates[best], "tried": tried}

    def tabulate(self) -> None:
        """All chosen arms in one table; nothing runs again."""
        meant = {"allow_unlike": ["train"]}  # either side may be given training of its own
        compare(self.data, model=self.model, methods=self._chosen, seeds=self.seeds, out=self.out, overrides=meant)

    def _dev(self, arms: Mapping[str, Fields], seeds: Sequence[int]) -> float:
        """The main metric on dev of the one arm, by mean over the seeds."""
        (arm,) = compare(self.data, model=self.model, methods=arms, seeds=seeds, out=self.out)["arms"]
        for lost in arm["failed"]:
            raise UserError(f"{arm['label']}, seed {lost['seed']}: {lost['reason']}", lost["hint"])
        values = []
        for seed in seeds:
            metrics = files.read_json(self.out / arm["folder"] / f"seed{seed}" / "metrics.json")
            assert isinstance(metrics, dict)
            if not metrics["dev"]:
                raise UserError("the search needs dev rows, and there are none", "add a dev file to the task's folder")
            self.metric, value = next(iter(metrics["dev"].items()))
            if self.metric in LOWER_IS_BETTER:
                raise UserError(
                    f"the main metric is {self.metric}, of which no share can be reached", "use a task with answers"
                )
            values.append(value)
        return sum(values) / len(values)


def _learning_rate(arm: Fields) -> float:
    return arm.get("train", {}).get("learning_rate") or METHODS[arm["method"]["name"]].learning_rate
