"""Arms that are held against one another: the difference with its interval, and which of two things is known of it.

That two arms are told apart is shown by Welch's test, that they are equivalent by two one-sided tests. Either, both or
neither may be shown: a failure to tell apart shows nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tunewise.report import words
from tunewise.report.arms import Arm
from tunewise.report.protocol import HowCompared
from tunewise.verdict import Pair, Rule, Verdict, judge


@dataclass(frozen=True)
class Difference:
    """One arm less another, in words."""

    name: str
    """As in QLoRA − LoRA."""
    told: str
    """As in −0.4 [−1.9, +1.1] over 5 seeds, and where answers are right or wrong, the same over the test rows: in right
    answers, or in a metric of one's own that tells of each row."""
    known: str
    """Whether they are equivalent, told apart, both, or neither."""


def differences_of(verdict: Verdict, how: HowCompared, *, metric: str) -> list[Difference]:
    """Of each arm less that which it is held against, where both have a result."""
    digits = words.digits(metric)
    found = []
    for label, other in how.against.items():
        for pair in verdict.pairs:
            if {pair.first, pair.second} == {label, other}:
                told = ", ".join([_over_seeds(pair, label, digits), *_over_items(pair, label, how, metric)])
                found.append(Difference(f"{label} − {other}", told, _known(pair, verdict)))
    return found


def differences_elsewhere(arms: Sequence[Arm], how: HowCompared) -> list[Difference]:
    """The same on each out-of-domain test set, which is judged by itself: p is corrected over arms, not over sets."""
    rule = how.rule or Rule()
    found = []
    for name, items in how.elsewhere.items():
        asked = [arm for arm in arms if name in arm.out_of_domain]
        if not asked:
            continue
        metric = asked[0].out_of_domain[name][0]
        verdict = judge([arm.contender_on(name) for arm in asked], Rule.of(metric, rule.margin, rule.alpha))
        told = differences_of(verdict, replace(how, items=items), metric=metric)
        found += [replace(each, name=f"{each.name} on {name}") for each in told]
    return found


def _over_seeds(pair: Pair, label: str, digits: int) -> str:
    sign = 1 if pair.first == label else -1
    if not math.isfinite(pair.gap.half_width):
        return f"{_signed(sign * pair.gap.mean, digits)} of one seed"
    ends = (sign * pair.gap.mean - pair.gap.half_width, sign * pair.gap.mean + pair.gap.half_width)
    return f"{_between(sign * pair.gap.mean, *ends, digits)} over {pair.gap.n} seeds"


def _over_items(pair: Pair, label: str, how: HowCompared, metric: str) -> list[str]:
    """In right answers, whatever the metric, unless it is one's own; seeds of what trains nothing do not scatter, test
    rows do."""
    found = how.items.get((pair.first, pair.second))
    if found is None:
        return []
    ends = ("low", "high") if pair.first == label else ("high", "low")
    sign = 1 if pair.first == label else -1
    low, high = (sign * found[end] for end in ends)
    of, digits = (words.metric_name(metric), words.digits(metric)) if found.get("by_metric") else ("right answers", 1)
    return [f"{of} {_between(sign * found['gap'], low, high, digits)} over {found['n']} test rows"]


def _between(mean: float, low: float, high: float, digits: int) -> str:
    return f"{_signed(mean, digits)} [{_signed(low, digits)}, {_signed(high, digits)}]"


def _known(pair: Pair, verdict: Verdict) -> str:
    if not math.isfinite(pair.gap.half_width):
        return "nothing: one seed does not tell how much they scatter"
    within, apart = f"within ±{verdict.margin:.3g}", f"told apart ({words.probability(pair.p_holm)})"
    equivalent = pair.p_equivalent < verdict.alpha
    if pair.p_holm < verdict.alpha:
        return f"{apart}, and yet equivalent {within} ({words.probability(pair.p_equivalent)})" if equivalent else apart
    if equivalent:
        return f"equivalent {within} ({words.probability(pair.p_equivalent)})"
    return f"open: not {apart}, not shown to be {within} ({words.probability(pair.p_equivalent)})"


def _signed(value: float, digits: int) -> str:
    return f"{value:+z.{digits}f}".replace("-", "−")
