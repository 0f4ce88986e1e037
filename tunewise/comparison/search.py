"""The search before a comparison: each arm's own fields at B points, of which dev chooses one. Test stays closed.

A method says what is searched (`Method.search_space`): its learning rate first, on a logarithmic grid around its own,
then what else matters. The trials of an arm are the first B points in that order; what the arm states is not searched.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, product
from pathlib import Path
from typing import Any

from tunewise.comparison.protocol import Comparison
from tunewise.comparison.rungs import better_half, shares
from tunewise.run import Bases, Recipe, base_of, build_recipe, run_folder
from tunewise.run.trials import TrialOutcome, put_away
from tunewise.training.lane import Diverged

TRIALS = "trials"
RATE = "train.learning_rate"
Point = Mapping[str, Any]
"""Dotted field -> value."""
Advance = Callable[[Sequence[str], Sequence[Recipe], Sequence[Path], float], list[TrialOutcome]]
"""Names, recipes and folders of trials, and the share of their steps to which they are brought."""


@dataclass
class Trial:
    """One point of one arm, while the search goes on."""

    point: Point
    recipe: Recipe
    folder: Path
    rungs: list[dict[str, Any]] = field(default_factory=list)
    diverged: str = ""

    @property
    def score(self) -> tuple[float, float]:
        """At its last rung: on the way by the loss on dev; at the end by the metric, then by the loss."""
        if self.diverged or not self.rungs:
            return -math.inf, 0.0
        dev, loss = self.rungs[-1]["dev"], self.rungs[-1]["loss"]
        by_loss = -math.inf if loss is None else -loss
        return (by_loss, 0.0) if dev is None else (dev, by_loss)

    def told(self) -> dict[str, Any]:
        """For comparison.json."""
        return {"values": dict(self.point), "rungs": self.rungs, "diverged": self.diverged or None}


@dataclass(frozen=True)
class Search:
    """The trials of one arm, and which was chosen."""

    trials: tuple[Trial, ...]
    chosen: Trial

    def told(self) -> dict[str, Any]:
        """For comparison.json."""
        return {
            "trials": [{**trial.told(), "chosen": trial is self.chosen} for trial in self.trials],
            "values": dict(self.chosen.point),
            "seconds": round(sum(rung["seconds"] for trial in self.trials for rung in trial.rungs), 3),
            "at_edge": self.at_edge,
        }

    @property
    def at_edge(self) -> str:
        """ "lowest" or "highest" where the chosen learning rate is that of those tried: the best may lie beyond."""
        rates = [trial.point[RATE] for trial in self.trials if RATE in trial.point]
        chosen = self.chosen.point.get(RATE)
        if len(set(rates)) < 2 or chosen not in (min(rates), max(rates)):
            return ""
        return "lowest" if chosen == min(rates) else "highest"


def points(recipe: Recipe, n_trials: int, *, writes: bool = True) -> list[Point]:
    """The first points of an arm's search: of two fields the learning rate moves first. What is stated stays so.

    Fewer where a method has no more; one without a field where nothing is left to search. `writes`: whether the base
    answers in words.
    """
    stated = {f"method.{name}" for name in recipe.method.model_fields_set}
    stated |= {f"train.{name}" for name in recipe.train.model_fields_set if recipe.train.model_dump()[name] is not None}
    whole = type(recipe.method).search_space(writes=writes)
    space = {name: values for name, values in whole.items() if name not in stated}
    names = list(reversed(space))
    combinations = islice(product(*(space[name] for name in names)), n_trials)
    return [dict(reversed(list(zip(names, values, strict=True)))) for values in combinations]


def points_of(comparison: Comparison, bases: Bases) -> dict[str, list[Point]]:
    """The points of each arm that its protocol's number of trials tries, by what its first recipe states."""
    return {
        label: points(of_arm[0], comparison.protocol.trials, writes=base_of(of_arm[0], bases).head.kind == "lm")
        for label, of_arm in comparison.recipes.items()
    }


def at(recipe: Recipe, point: Point) -> Recipe:
    """The recipe with the values of a point."""
    return build_recipe(recipe.model_dump(mode="json"), point)


def search(
    recipes: Mapping[str, Recipe], candidates: Mapping[str, Sequence[Point]], root: Path, advance: Advance
) -> dict[str, Search]:
    """Choose one of the candidates of every arm (label -> its recipe with the first seed), by halving on dev.

    All arms climb a rung before any goes to the next. An arm of fewer trials joins on a later one, so that its last two
    run to the end too. Trials lie below root/trials; the checkpoints of those that are
    out are removed. An arm all of whose trials diverge keeps its first point.
    """
    trials = {
        label: tuple(_trial(recipe, point, root) for point in candidates[label]) for label, recipe in recipes.items()
    }
    alive = {label: list(of_arm) for label, of_arm in trials.items()}
    ladder = shares(max(map(len, candidates.values())))
    for number, share in enumerate(ladder):
        n_left = len(ladder) - number
        halved = [label for label, of_arm in alive.items() if len(of_arm) > 1 and len(shares(len(of_arm))) >= n_left]
        climbing = [(label, trial) for label in halved for trial in alive[label]]
        names = [f"{label}, {in_words(trial.point)}, to {share:.0%}" for label, trial in climbing]
        outcomes = advance(
            names, [trial.recipe for _, trial in climbing], [trial.folder for _, trial in climbing], share
        )
        for (_, trial), outcome in zip(climbing, outcomes, strict=True):
            _note(trial, outcome, share)
        for label in halved:
            alive[label] = [alive[label][best] for best in better_half([trial.score for trial in alive[label]])]
        for label, trial in climbing:
            if trial not in alive[label]:
                put_away(trial.folder)
    found = {label: Search(of_arm, (alive[label] or of_arm)[0]) for label, of_arm in trials.items()}
    for each in found.values():
        put_away(each.chosen.folder)
    return found


def in_words(point: Point) -> str:
    """rate 4e-04, rank 8."""
    short = {RATE: "rate"}
    told = [
        f"{short.get(name, name.rpartition('.')[2])} {f'{value:.3g}' if isinstance(value, float) else value}"
        for name, value in point.items()
    ]
    return ", ".join(told)


def _trial(recipe: Recipe, point: Point, root: Path) -> Trial:
    own = at(recipe, point)
    return Trial(point, own, run_folder(own, root / TRIALS))


def _note(trial: Trial, outcome: TrialOutcome, share: float) -> None:
    if isinstance(outcome, Diverged):
        trial.diverged = outcome.message
        return
    trial.rungs = [rung for rung in outcome["rungs"] if rung["share"] <= share or outcome["n_steps"] == 0]
