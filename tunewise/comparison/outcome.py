"""What comes of the runs of a comparison: their metrics, or why one has none."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunewise.files import Held
from tunewise.models.load import Base
from tunewise.run import Recipe, run, run_together
from tunewise.run.trials import advance
from tunewise.training.lane import Diverged
from tunewise.training.progress import Watcher

Outcome = dict[str, Any] | Diverged
"""The content of a run's metrics.json or a trial's trial.json, or the error of one whose loss was no longer finite."""


def run_group(
    recipes: Sequence[Recipe],
    folders: Sequence[Path],
    base: Base,
    progress: Watcher | None = None,
    share: float | None = None,
) -> list[Outcome] | Held:
    """One run, or several as lanes of one batch, in this process; one that diverges keeps no other from its end.

    With a `share` they are trials, brought to that share of their steps. Held, and nothing done, where another process
    is at one of them.
    """
    try:
        if share is not None:
            return advance(recipes, folders, base, share, progress)
        if len(recipes) > 1:
            return run_together(recipes, folders, base, progress)
        return [run(recipes[0], folders[0], base=base, progress=progress, prove=False)]
    except Diverged as error:
        return [error]
    except Held as held:
        return held


def in_words(outcome: Outcome) -> str:
    """The first test metric and the time of a run, as in "accuracy 90.3  12.1 s", or a trial's on dev, or why there is
    none."""
    if isinstance(outcome, Diverged):
        return f"diverged: {outcome.message}"
    if "rungs" in outcome:
        last = outcome["rungs"][-1]
        found = (
            f"loss {math.inf if last['loss'] is None else last['loss']:.4f}"
            if last["dev"] is None
            else f"{last['dev']:.4g}"
        )
        return f"dev {found} after {last['step']} steps  {last['seconds']:.1f} s"
    name, value = next(iter(outcome["test"].items()))
    return f"{name} {value:.4f}" if name == "loss" else f"{name} {value:.1f}  {outcome['seconds']:.1f} s"


def seconds_of(outcome: Outcome) -> float | None:
    """What a run took, or a trial to its last rung; None of one that has no result."""
    if isinstance(outcome, Diverged):
        return None
    return outcome["rungs"][-1]["seconds"] if "rungs" in outcome else outcome["seconds"]


def failures(seeds: Sequence[int], outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Of the runs of one arm those that diverged: seed, reason and hint of each."""
    return [
        {"seed": seed, "reason": outcome.message, "hint": outcome.hint}
        for seed, outcome in zip(seeds, outcomes, strict=True)
        if isinstance(outcome, Diverged)
    ]
