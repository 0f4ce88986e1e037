"""Means over seeds with t intervals, tests between arms, and what so few seeds could have seen.

Seeds tell how much the training itself scatters (Welch's test), items how much the choice of the test rows does (paired
bootstrap, McNemar). Everything is a plain function of numbers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.optimize import brentq
from scipy.special import bdtr, nctdtr, roots_jacobi, stdtr, stdtrit  # scipy.stats takes a second to import

ALPHA = 0.05
POWER = 0.8
NODES = 24


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval, low = mean - half_width and high = mean + half_width, over n values."""

    mean: float
    low: float
    high: float
    half_width: float
    n: int


@dataclass(frozen=True)
class Welch:
    """Welch's two-sided t test: the statistic (positive where the first mean is larger), degrees of freedom, p."""

    t: float
    df: float
    p: float


@dataclass(frozen=True)
class Flips:
    """McNemar's test on items that two arms answered: how many only the first or only the second had right, and p."""

    only_first: int
    only_second: int
    p: float


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """The mean with its t interval: mean ± t(n - 1) · s / sqrt(n), s with n - 1 in the denominator.

    One value says nothing of the spread: its interval is everything (half_width is infinite). Equal values give a
    half_width of exactly 0. Raises ValueError for no values or a value that is not finite.
    """
    mean, variance = moments(values)
    n = len(values)
    if n == 1:
        return Interval(mean, -math.inf, math.inf, math.inf, 1)
    half_width = float(stdtrit(n - 1, (1 + confidence) / 2)) * math.sqrt(variance / n)
    return Interval(mean, mean - half_width, mean + half_width, half_width, n)


def welch(a: Sequence[float], b: Sequence[float], least: float = 0.0) -> Welch:
    """Welch's t test for a difference of means, variances not assumed equal.  Welch 1947; df by Satterthwaite 1946.

    A variance below `least` counts as that: what rounding may hide (`of_rounding`). Where one side is a single value
    nothing can be told: t = 0, df = 0, p = 1. Where both sides have no variance at all, equal means give t = 0, p = 1
    and unlike ones t = ±inf, p = 0, with n_a + n_b - 2 degrees of freedom.
    Raises ValueError for no values or a value that is not finite.
    """
    (mean_a, variance_a), (mean_b, variance_b) = moments(a, least), moments(b, least)
    if len(a) == 1 or len(b) == 1:
        return Welch(0.0, 0.0, 1.0)
    share_a, share_b = variance_a / len(a), variance_b / len(b)
    if share_a + share_b == 0:
        df = float(len(a) + len(b) - 2)
        if mean_a == mean_b:
            return Welch(0.0, df, 1.0)
        return Welch(math.copysign(math.inf, mean_a - mean_b), df, 0.0)
    t = (mean_a - mean_b) / math.sqrt(share_a + share_b)
    # as shares of their sum, so that squares of tiny variances do not vanish
    weight_a, weight_b = share_a / (share_a + share_b), share_b / (share_a + share_b)
    df = 1 / (weight_a**2 / (len(a) - 1) + weight_b**2 / (len(b) - 1))
    return Welch(t, df, 2 * float(stdtr(df, -abs(t))))


def of_rounding(step: float) -> float:
    """The variance that rounding to multiples of `step` adds to a value.  Sheppard 1897.

    Values that scatter by less fall on one multiple, and then seem not to scatter at all.
    """
    return step**2 / 12


def difference_interval(
    a: Sequence[float], b: Sequence[float], confidence: float = 0.95, least: float = 0.0
) -> Interval:
    """mean(a) − mean(b) with Welch's interval, variances as there; `n` is the smaller number of values.

    It holds 0 just where `welch` has p above 1 − confidence. With a single value on either side it is everything.
    """
    (mean_a, variance_a), (mean_b, variance_b) = moments(a, least), moments(b, least)
    gap, n = mean_a - mean_b, min(len(a), len(b))
    if n == 1:
        return Interval(gap, -math.inf, math.inf, math.inf, 1)
    spread = math.sqrt(variance_a / len(a) + variance_b / len(b))
    half_width = spread * float(stdtrit(welch(a, b, least).df, (1 + confidence) / 2))
    return Interval(gap, gap - half_width, gap + half_width, half_width, n)


def equivalence(a: Sequence[float], b: Sequence[float], margin: float, least: float = 0.0) -> float:
    """p of the two one-sided tests that the means lie less than `margin` apart.  Schuirmann 1987; Welch's t, as above.

    Below alpha the means are known to be equivalent: the difference's interval at confidence 1 − 2 · alpha lies inside
    ± margin. That `welch` cannot tell them apart is no such knowledge. 1 where one side is a single value.
    """
    if len(a) == 1 or len(b) == 1:
        return 1.0
    (mean_a, variance_a), (mean_b, variance_b) = moments(a, least), moments(b, least)
    away, spread = abs(mean_a - mean_b) - margin, math.sqrt(variance_a / len(a) + variance_b / len(b))
    if spread == 0:
        return float(away >= 0)
    return float(stdtr(welch(a, b, least).df, away / spread))  # of both tests the larger p


def holm(p_values: Sequence[float]) -> list[float]:
    """p of each of m tests, corrected so that all together err once in 1 / alpha times.  Holm 1979.

    The k-th smallest, counted from 0, is multiplied by m − k, is never below the one before it, and at most 1.
    """
    corrected = [0.0] * len(p_values)
    least = 0.0
    for k, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        least = max(least, min(1.0, p_values[index] * (len(p_values) - k)))
        corrected[index] = least
    return corrected


def hedges_g(a: Sequence[float], b: Sequence[float]) -> float | None:
    """The difference of means in standard deviations: g = J(n_a + n_b − 2) · (mean_a − mean_b) / s.

    s is pooled, and J(m) = Γ(m/2) / (√(m/2) Γ((m − 1)/2)) corrects for few values.  Hedges 1981. None where nothing
    scatters, or nothing is known of it.
    """
    (mean_a, variance_a), (mean_b, variance_b) = moments(a), moments(b)
    freedom = len(a) + len(b) - 2
    if min(len(a), len(b)) < 2 or variance_a + variance_b == 0:
        return None
    pooled = ((len(a) - 1) * variance_a + (len(b) - 1) * variance_b) / freedom
    correction = math.exp(math.lgamma(freedom / 2) - math.lgamma((freedom - 1) / 2)) / math.sqrt(freedom / 2)
    return correction * (mean_a - mean_b) / math.sqrt(pooled)


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> Flips:
    """Whether two arms that answered the same items are right equally often: McNemar 1947, exact and two-sided.

    Under equality each item on which just one of them is right is a fair coin. Raises ValueError for unlike lengths.
    """
    if len(first) != len(second):
        raise ValueError(f"needs the same items of both, not {len(first)} and {len(second)}")
    only_first = sum(one and not other for one, other in zip(first, second))
    only_second = sum(other and not one for one, other in zip(first, second))
    n = only_first + only_second
    tail = float(bdtr(min(only_first, only_second), n, 0.5)) if n else 1.0
    return Flips(only_first, only_second, min(1.0, 2 * tail))


def paired_bootstrap(
    first: Sequence[float],
    second: Sequence[float],
    *,
    n_resamples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """mean(first) − mean(second) over the same items, with the percentiles of means of items drawn anew.

    Efron 1979; Koehn 2004 for test sets. `half_width` is half of high − low. Raises ValueError for none, or unlike
    lengths.
    """
    if len(first) != len(second) or not len(first):
        raise ValueError(f"needs the same items of both, one or more, not {len(first)} and {len(second)}")
    gaps = np.asarray(first, float) - np.asarray(second, float)
    drawn = np.random.default_rng(seed)
    at_once = max(1, 1_000_000 // len(gaps))
    sizes = [at_once] * (n_resamples // at_once) + [n_resamples % at_once]
    means = np.concatenate([gaps[drawn.integers(0, len(gaps), (size, len(gaps)))].mean(axis=1) for size in sizes])
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(gaps.mean()), float(low), float(high), float(high - low) / 2, len(gaps))


def power(gap: float, deviation: float, n: int, alpha: float = ALPHA) -> float:
    """How often `welch` sees a true `gap` at level `alpha` between two arms of n values with this deviation each.

    With w the first variance's share of both, Welch's t has (n − 1) / (w² + (1 − w)²) degrees of freedom, w is
    Beta((n − 1) / 2, (n − 1) / 2) and independent of t's size, which is noncentral t with 2n − 2: the mean over w, by
    Gauss and Jacobi, is exact for normal values. Student's test at so few values would see more than Welch's does.
    """
    if n < 2:
        return 0.0
    if deviation == 0:
        return float(gap != 0)
    weights, critical = _critical(n, alpha)
    away = abs(gap) / deviation * math.sqrt(n / 2)
    wrong_way = np.nan_to_num(nctdtr(2 * n - 2, away, -critical))  # not a number where it is too small for one
    seen = 1 - nctdtr(2 * n - 2, away, critical) + wrong_way
    return float(weights @ seen)


@cache
def _critical(n: int, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """How likely each of `NODES` shares w is, and the t that Welch's test wants there."""
    nodes, weights = roots_jacobi(NODES, (n - 3) / 2, (n - 3) / 2)
    share = (1 + nodes) / 2
    return weights / weights.sum(), stdtrit((n - 1) / (share**2 + (1 - share) ** 2), 1 - alpha / 2)


def detectable_gap(deviation: float, n: int, alpha: float = ALPHA, wanted: float = POWER) -> float:
    """The smallest true gap that n values an arm would have shown with this power; infinite for one value."""
    if n < 2:
        return math.inf
    if deviation == 0:
        return 0.0
    most = deviation
    while power(most, deviation, n, alpha) < wanted:
        most *= 2
    return float(brentq(lambda gap: power(gap, deviation, n, alpha) - wanted, 0.0, most, xtol=1e-13 * most, rtol=1e-13))


def seeds_to_see(
    gap: float, deviation: float, alpha: float = ALPHA, wanted: float = POWER, most: int = 1_000
) -> int | None:
    """The least number of values an arm that would show this gap with this power; None beyond `most`."""
    low, high = 1, 2
    while power(gap, deviation, high, alpha) < wanted:
        if high >= most:
            return None
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(gap, deviation, middle, alpha) >= wanted else (middle, high)
    return high


def moments(values: Sequence[float], least: float = 0.0) -> tuple[float, float]:
    """Mean and unbiased variance (0 for one value), `least` or more; exact for equal values."""
    if not values or not all(math.isfinite(value) for value in values):
        raise ValueError(f"needs one or more finite numbers, not {list(values)}")
    if all(value == values[0] for value in values):
        return float(values[0]), least
    mean = math.fsum(values) / len(values)
    return mean, max(least, math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
