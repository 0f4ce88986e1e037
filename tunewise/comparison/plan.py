"""What a comparison would cost, arm by arm, before it is carried out: each arm is rehearsed for a few steps."""

from collections.abc import Mapping, Sequence
from typing import Any

from tunewise.comparison.at_once import n_at_once, slower_by
from tunewise.comparison.protocol import Comparison
from tunewise.comparison.rungs import shares, sizes
from tunewise.comparison.search import Point, at, points_of
from tunewise.errors import UserError
from tunewise.run import Bases, Loading, base_of, plan
from tunewise.run.forecast import Forecast, forecast


def plan_comparison(comparison: Comparison, workers: int | None = None) -> dict[str, Any]:
    """Arms with parameters, trials, runs, seconds and memory, and what all of it takes; nothing is written.

    Seconds are those of runs one after another, or on `workers` side by side, as many as would be taken where nothing
    is said; `n_together` of the runs will share batches, which takes less time and more memory: that told is of one run
    alone. An arm that would be refused has the reason under `refused`.
    """
    bases: Bases = {}
    tried = points_of(comparison, bases)
    _arm(next(iter(tried)), comparison, tried, bases)  # what is measured once a process is no arm's own
    arms = [_arm(label, comparison, tried, bases) for label in tried]
    planned = [arm for arm in arms if not arm["refused"]]
    recipes = [each for label in comparison.recipes for each in comparison.recipes[label]]
    of_bases = [
        [each for each in recipes if Loading.of(each) == one] for one in dict.fromkeys(map(Loading.of, recipes))
    ]
    able = {arm["label"]: comparison.recipes[arm["label"]] for arm in planned}
    workers = workers or (n_at_once(able, bases) if able else 1)
    groups = [group for of_base in of_bases for group in plan(of_base, base_of(of_base[0], bases), workers).groups]
    seconds = sum(arm["seconds"] for arm in planned)
    return {
        "model": comparison.first.model,
        "data": comparison.first.data.path,
        "protocol": comparison.protocol.model_dump(mode="json"),
        "arms": arms,
        "n_runs": sum(arm["n_runs"] for arm in planned),
        "n_trials": sum(arm["n_trials"] for arm in planned),
        "n_together": sum(map(len, groups)),
        "workers": workers,
        "seconds": round(seconds * slower_by(workers) / workers, 1),
        "peak_bytes": max((arm["peak_bytes"] for arm in planned), default=0),
    }


def _arm(label: str, comparison: Comparison, points: Mapping[str, Sequence[Point]], bases: Bases) -> dict[str, Any]:
    protocol, recipe, tried = comparison.protocol, comparison.recipes[label][0], points[label]
    base = base_of(recipe, bases)
    n_trials = len(tried) if len(tried) > 1 else 0
    told = {"label": label, "n_trials": n_trials, "n_runs": len(protocol.seeds)}
    try:
        found = forecast(at(recipe, tried[-1] if not recipe.method.learning_rate else {}), base)
    except UserError as error:
        return {**told, "refused": f"{error.message}. {error.hint}"}
    search = search_seconds(found, n_trials, shares(max(map(len, points.values()))))
    return {
        **told,
        "refused": "",
        "n_trainable": found.n_trainable,
        "adapter_bytes": found.adapter_bytes,
        "n_steps": found.n_steps,
        "run_seconds": round(found.seconds, 2),
        "search_seconds": round(search, 2),
        "seconds": round(search + len(protocol.seeds) * found.seconds, 2),
        "peak_bytes": found.peak_bytes,
    }


def search_seconds(of_run: Forecast, n_trials: int, ladder: Sequence[float]) -> float:
    """What the trials of an arm take, one after another, on the last rungs of all arms' `ladder`; what trains nothing
    is scored once each."""
    if n_trials < 2:
        return 0.0
    if not of_run.n_steps:
        return n_trials * of_run.trial_seconds(0.0)
    own = ladder[-len(sizes(n_trials)) :]
    return sum(n * of_run.trial_seconds(share - before) for n, share, before in zip(sizes(n_trials), own, (0.0, *own)))
