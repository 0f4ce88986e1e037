"""Means over seeds with t intervals, and Welch's test between two arms."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtr, stdtrit  # Student's t; scipy.stats takes a second to import


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


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """The mean with its t interval: mean ± t(n - 1) · s / sqrt(n), s with n - 1 in the denominator.

    One value says nothing of the spread: its interval is everything (half_width is infinite). Equal values give a
    half_width of exactly 0. Raises ValueError for no values or a value that is not finite.
    """
    mean, variance = _moments(values)
    n = len(values)
    if n == 1:
        return Interval(mean, -math.inf, math.inf, math.inf, 1)
    half_width = float(stdtrit(n - 1, (1 + confidence) / 2)) * math.sqrt(variance / n)
    return Interval(mean, mean - half_width, mean + half_width, half_width, n)


def welch(a: Sequence[float], b: Sequence[float]) -> Welch:
    """Welch's t test for a difference of means, variances not assumed equal.  Welch 1947; df by Satterthwaite 1946.

    Where one side is a single value nothing can be told: t = 0, df = 0, p = 1. Where both sides have no variance at
    all, equal means give t = 0, p = 1 and unlike ones t = ±inf, p = 0, with n_a + n_b - 2 degrees of freedom.
    Raises ValueError for no values or a value that is not finite.
    """
    (mean_a, variance_a), (mean_b, variance_b) = _moments(a), _moments(b)
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


def _moments(values: Sequence[float]) -> tuple[float, float]:
    """Mean and unbiased variance (0 for one value), exact for equal values."""
    if not values or not all(math.isfinite(value) for value in values):
        raise ValueError(f"needs one or more finite numbers, not {list(values)}")
    if all(value == values[0] for value in values):
        return float(values[0]), 0.0
    mean = math.fsum(values) / len(values)
    return mean, math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
