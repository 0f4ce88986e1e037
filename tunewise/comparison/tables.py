"""The runs of a comparison as tables: one row an arm, one row a pair of arms, and the verdict over them."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunewise.comparison.items import beside, items_of
from tunewise.files import read_json
from tunewise.run.record import ENVIRONMENT, METRICS, predictions_of
from tunewise.stats import Interval, mean_interval
from tunewise.training.proofs import failed_proofs
from tunewise.verdict import Pair, Rule, contender, judge, pareto

STORED = ("quantise", "base_bytes")
COSTS = ("n_trainable", "adapter_bytes", "seconds", "train_seconds", "peak_bytes", "tokens_per_second")


def rows_of(arms: Mapping[str, Sequence[Path]]) -> list[dict[str, Any]]:
    """One row for each arm (label -> its run folders): quality and forgetting as intervals, costs as means, and how its
    base is stored.

    peak_bytes is the largest of the seeds. An interval is {"mean", "half_width", "n"}; the half width of a single
    value is None, as nothing is known of it. Of an arm without runs nothing is known but its label.
    """
    return [
        _row(label, [_read(folder / METRICS) for folder in folders])
        | (_stored(folders[0]) if folders else dict.fromkeys(STORED))
        for label, folders in arms.items()
    ]


def verdict_of(
    arms: Mapping[str, Sequence[Path]], rule_of: Callable[[str], Rule] = Rule.of, *, elsewhere: str = ""
) -> dict[str, Any] | None:
    """The verdict over these arms (label -> its run folders) by the task's first metric; None for no arm.

    `rule_of` gives the rule for a metric; `elsewhere` names the out-of-domain test set that counts in place of test.

    `pairs` has Welch's test of each two arms over seeds and, where answers are right or wrong, `items` (see
    `items.beside`); `pareto` the arms that no other beats in quality and in one cost. A bound that is infinite is None.
    """
    if not arms:
        return None
    runs = {label: [_on(elsewhere, _read(folder / METRICS)) for folder in folders] for label, folders in arms.items()}
    metric = next(iter(next(iter(runs.values()))[0]["test"]))
    rule = rule_of(metric)
    contenders = [contender(label, metric, of_arm) for label, of_arm in runs.items()]
    found = judge(contenders, rule)
    answers = predictions_of(elsewhere)
    items = {label: items_of([folder / answers for folder in folders]) for label, folders in arms.items()}
    return {
        "metric": metric,
        "margin": rule.margin,
        "alpha": rule.alpha,
        "weights": dict(rule.weights),
        "pick": found.pick,
        "best": found.best,
        "equal": list(found.equal),
        "open": list(found.open),
        "worse": list(found.worse),
        "detectable": _known(found.detectable),
        "seeds_needed": found.seeds_needed,
        "pairs": [_pair(pair) | {"items": beside(items[pair.first], items[pair.second])} for pair in found.pairs],
        "pareto": {cost: list(pareto(contenders, cost, lower_is_better=rule.lower_is_better)) for cost in rule.weights},
    }


def _on(elsewhere: str, run: dict[str, Any]) -> dict[str, Any]:
    """What metrics.json says of a run, with its scores on that set in place of those on test."""
    if not elsewhere:
        return run
    return {**run, "test": run["out_of_domain"][elsewhere], "n_test": run["n_out_of_domain"][elsewhere]}


def _pair(pair: Pair) -> dict[str, Any]:
    return {
        "first": pair.first,
        "second": pair.second,
        "gap": _written(pair.gap),
        "t": _known(pair.t),
        "df": pair.df,
        "p": pair.p,
        "p_holm": pair.p_holm,
        "p_equivalent": pair.p_equivalent,
        "g": pair.g,
    }


def _stored(folder: Path) -> dict[str, Any]:
    """The format of the base's weights, and their bytes: None of a run that did not count them yet."""
    environment = folder / ENVIRONMENT
    base = _read(environment).get("base") or {} if environment.is_file() else {}
    return dict(zip(STORED, (base.get("quantise", ""), base.get("bytes")), strict=True))


def _row(label: str, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if not runs:
        return {
            "arm": label,
            "method": None,
            "test": {},
            "out_of_domain": {},
            "forgetting": None,
            **dict.fromkeys(COSTS),
            "failed_proofs": [],
        }
    changes = [run["retention"]["change"] for run in runs if (run.get("retention") or {}).get("change") is not None]
    costs = {name: sum(run[name] for run in runs) / len(runs) for name in COSTS}
    costs["peak_bytes"] = max(run["peak_bytes"] for run in runs)
    failed = sorted({name for run in runs for name in failed_proofs(run["proofs"])})
    return {
        "arm": label,
        "method": runs[0]["method"],
        "test": {name: interval([run["test"][name] for run in runs]) for name in runs[0]["test"]},
        "out_of_domain": {
            name: {metric: interval([run["out_of_domain"][name][metric] for run in runs]) for metric in found}
            for name, found in runs[0].get("out_of_domain", {}).items()
        },
        "forgetting": interval(changes) if changes else None,
        **costs,
        "failed_proofs": failed,
    }


def interval(values: Sequence[float]) -> dict[str, float | int | None]:
    """The mean of these values with its half width; None where nothing is known of that."""
    return _written(mean_interval(values))


def _written(interval: Interval) -> dict[str, float | int | None]:
    return {"mean": interval.mean, "half_width": _known(interval.half_width), "n": interval.n}


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _read(path: Path) -> dict[str, Any]:
    content = read_json(path)
    assert isinstance(content, dict), path
    return content
