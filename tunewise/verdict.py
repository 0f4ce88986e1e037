"""Which arm to take, by a stated rule, from what each scored over its seeds and what it costs.

The arm with the best mean is the mark. Every pair of arms is tested with Welch's t, and p is corrected by Holm over all
pairs, so that among arms that are in truth alike some difference is found once in twenty comparisons at most. One of n
items moves a score by about 100 / n (an accuracy just so); seeds that seem to scatter less than rounding to that would
count as scattering by it. Each other arm is then one of three:

- equal: its mean lies within the margin of the best one, which is how much the user says makes no difference
  (two one-sided tests say besides of which pairs so few seeds show that);
- worse: further off, and told apart by the test;
- open: further off, but the seeds scatter too widely for the test to tell.

The one to take is the cheapest of the best and its equals. An open arm is never taken: that it might be as good is no
reason to.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from statistics import fmean, median
from typing import Any

from tunewise.directions import LOWER_IS_BETTER
from tunewise.errors import UserError
from tunewise.stats import (
    ALPHA,
    Interval,
    detectable_gap,
    difference_interval,
    equivalence,
    hedges_g,
    holm,
    moments,
    of_rounding,
    seeds_to_see,
    welch,
)

MARGIN = 2.0
COSTS = ("bytes", "seconds", "memory", "forgetting", "serving_tokens")


@dataclass(frozen=True)
class Contender:
    """One arm: its main metric on test, a value a seed, and its costs by name of `COSTS`; one that is missing is 0."""

    label: str
    scores: tuple[float, ...]
    costs: Mapping[str, float] = field(default_factory=dict)
    step: float = 0.0
    """What one test item is worth: two scores that are equal need not scatter less than it."""

    @property
    def mean(self) -> float:
        return moments(self.scores)[0]

    @property
    def variance(self) -> float:
        """Unbiased, and no less than that of rounding to `step`."""
        return moments(self.scores, of_rounding(self.step))[1]


def contender(label: str, metric: str, runs: Sequence[Mapping[str, Any]]) -> Contender:
    """An arm from what metrics.json says of each of its seeds: costs are means, memory is the largest."""
    changes = [run["retention"]["change"] for run in runs if (run.get("retention") or {}).get("change") is not None]
    costs = {
        "bytes": fmean([run.get("adapter_bytes") or 0 for run in runs]),
        "seconds": fmean([run.get("seconds") or 0 for run in runs]),
        "memory": max(run.get("peak_bytes") or 0 for run in runs),
        "forgetting": fmean(changes) if changes else 0.0,
        "serving_tokens": fmean([run.get("serving_tokens") or 0 for run in runs]),
    }
    scores = tuple(float(run["test"][metric]) for run in runs)
    return Contender(label, scores, costs, step_of(metric, min(run.get("n_test") or 0 for run in runs)))


def step_of(metric: str, n_items: int) -> float:
    """What one of so many items is worth in points of a score; 0 of a loss."""
    return 0.0 if metric in LOWER_IS_BETTER or not n_items else 100 / n_items


@dataclass(frozen=True)
class Rule:
    """What the verdict goes by."""

    lower_is_better: bool = False
    margin: float = MARGIN
    """How far below the best mean is as good: points of a score, or per cent where lower is better (a loss)."""
    alpha: float = ALPHA
    """How often one comparison of arms that are alike may find a difference."""
    weights: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(COSTS, 1.0))
    """What a cost counts; each is measured in shares of the largest among the arms in question."""

    @classmethod
    def of(
        cls, metric: str, margin: float = MARGIN, alpha: float = ALPHA, weights: Mapping[str, float] | None = None
    ) -> "Rule":
        """The rule in the direction of this metric; without `weights` every cost counts alike."""
        lower = metric in LOWER_IS_BETTER
        return cls(lower, margin, alpha) if weights is None else cls(lower, margin, alpha, weights)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.margin) and self.margin >= 0):
            raise UserError(f"a margin of {self.margin} points is none", "use 0 or more, as in --margin 2")
        if not 0 < self.alpha < 1:
            raise UserError(f"alpha={self.alpha} is no probability", "use one between 0 and 1, as in --alpha 0.05")
        if unknown := set(self.weights) - set(COSTS):
            raise UserError(f"no such cost: {', '.join(sorted(unknown))}", f"weigh some of {', '.join(COSTS)}")
        if any(not (math.isfinite(weight) and weight >= 0) for weight in self.weights.values()):
            raise UserError(f"a cost is weighed by 0 or more, not {dict(self.weights)}", "as in bytes=1,seconds=0.5")


@dataclass(frozen=True)
class Pair:
    """Two arms beside each other: mean(first) − mean(second) with its interval, and Welch's test of it."""

    first: str
    second: str
    gap: Interval
    t: float
    df: float
    p: float
    p_holm: float
    """p, corrected over all pairs of the comparison."""
    p_equivalent: float
    """p of the two one-sided tests that the means lie within the margin of each other, of this pair alone."""
    g: float | None
    """Hedges' g, the gap in standard deviations over seeds; None where nothing scatters."""
    deviation: float
    """The root of the mean of both variances over seeds."""


@dataclass(frozen=True)
class Verdict:
    """Labels of arms: the one to take, the best mean, and in which group every other stands."""

    pick: str
    best: str
    equal: tuple[str, ...]
    open: tuple[str, ...]
    worse: tuple[str, ...]
    pairs: tuple[Pair, ...]
    n_seeds: int
    """Of the arm that has the fewest."""
    deviation: float
    """Over the seeds, of the arm that scatters as the middle one does."""
    level: float
    """What p of a single pair must stay below to be told apart for sure: alpha over the number of pairs."""
    margin: float
    """How far apart two means are as good, in units of the metric."""

    @property
    def alpha(self) -> float:
        """Of all pairs together."""
        return self.level * max(1, len(self.pairs))

    @cached_property
    def detectable(self) -> float:
        """The smallest gap of means that so many seeds would have shown four times in five, between two arms that
        scatter as the middle one does; infinite for one seed."""
        return detectable_gap(self.deviation, self.n_seeds, self.level)

    @cached_property
    def seeds_needed(self) -> int | None:
        """About how many seeds an arm would settle all that is open; None where nothing is, or none will do."""
        if self.n_seeds < 2 or not self.open:
            return None
        pairs = [self.pair(self.best, label) for label in self.open]
        needed = [seeds_to_see(pair.gap.mean, pair.deviation, self.level) for pair in pairs]
        return None if None in needed else max(n for n in needed if n is not None)

    @property
    def settled(self) -> bool:
        """Whether every arm is either as good as the best or reliably worse."""
        return not self.open

    def pair(self, one: str, other: str) -> Pair:
        """The pair of these two, in whichever order it stands."""
        return next(pair for pair in self.pairs if {pair.first, pair.second} == {one, other})


def judge(contenders: Sequence[Contender], rule: Rule | None = None) -> Verdict:
    """The verdict over arms in any order; ties go to the one named first."""
    rule = rule or Rule()
    sign = -1 if rule.lower_is_better else 1
    best = max(contenders, key=lambda arm: sign * arm.mean)
    margin = rule.margin * abs(best.mean) / 100 if rule.lower_is_better else rule.margin
    pairs = _pairs(contenders, margin)
    found = {frozenset((pair.first, pair.second)): pair for pair in pairs}
    equal, undecided, worse = [], [], []
    for arm in contenders:
        if arm is best:
            continue
        pair = found[frozenset((arm.label, best.label))]
        if abs(best.mean - arm.mean) <= margin:
            equal.append(arm)
        elif pair.p_holm < rule.alpha:
            worse.append(arm)
        else:
            undecided.append(arm)
    return Verdict(
        pick=cheapest([arm for arm in contenders if arm is best or arm in equal], rule.weights).label,
        best=best.label,
        equal=tuple(arm.label for arm in equal),
        open=tuple(arm.label for arm in undecided),
        worse=tuple(arm.label for arm in worse),
        pairs=pairs,
        n_seeds=min(len(arm.scores) for arm in contenders),
        deviation=math.sqrt(median(arm.variance for arm in contenders)),
        level=rule.alpha / max(1, len(pairs)),
        margin=margin,
    )


def cheapest(contenders: Sequence[Contender], weights: Mapping[str, float]) -> Contender:
    """The one whose weighed costs, each a share of the largest among these, add up to the least."""
    largest = {name: max(_cost(arm, name) for arm in contenders) for name in weights}
    return min(
        contenders,
        key=lambda arm: sum(
            weight * _cost(arm, name) / largest[name] for name, weight in weights.items() if largest[name]
        ),
    )


def pareto(contenders: Sequence[Contender], cost: str, *, lower_is_better: bool = False) -> tuple[str, ...]:
    """The labels of the arms that no other beats in mean or `cost` without being worse in the other, cheapest first."""
    sign = -1 if lower_is_better else 1
    front: list[Contender] = []
    for arm in sorted(contenders, key=lambda arm: (_cost(arm, cost), -sign * arm.mean)):
        if not front or sign * arm.mean > sign * front[-1].mean:
            front.append(arm)
    return tuple(arm.label for arm in front)


def _cost(arm: Contender, name: str) -> float:
    return max(0.0, arm.costs.get(name, 0.0))  # who forgets less than nothing has that cost no more


def _pairs(contenders: Sequence[Contender], margin: float) -> tuple[Pair, ...]:
    both = list(combinations(contenders, 2))
    least = of_rounding(max((arm.step for arm in contenders), default=0.0))  # all were asked the same items
    tests = [welch(a.scores, b.scores, least) for a, b in both]
    corrected = holm([test.p for test in tests])
    return tuple(
        Pair(
            a.label, b.label, difference_interval(a.scores, b.scores, least=least),
            test.t, test.df, test.p, p_holm, equivalence(a.scores, b.scores, margin, least),
            hedges_g(a.scores, b.scores),
            math.sqrt((a.variance + b.variance) / 2),
        )
        for (a, b), test, p_holm in zip(both, tests, corrected, strict=True)
    )  # fmt: skip
