"""How far a classifier's probabilities can be believed: expected calibration error, Brier score, reliability by bins.

The confidence of an answer is the largest of its probabilities, and a classifier is calibrated where it is right as
often as it is confident.  Guo et al. 2017, arXiv:1706.04599.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

N_BINS = 15


@dataclass(frozen=True)
class Bin:
    """The n answers whose confidence lies in (low, high]: their mean confidence, and the share of right ones (0 to 1).

    A confidence of 0 lies in the first bin.
    """

    low: float
    high: float
    confidence: float
    accuracy: float
    n: int


def probabilities(scores: Sequence[float]) -> list[float]:
    """The softmax of an answer's log-probabilities (nats): p_k = exp s_k / Σ exp s_j, which add up to 1."""
    largest = max(scores)
    weights = [math.exp(score - largest) for score in scores]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def reliability(confidences: Sequence[float], corrects: Sequence[bool], n_bins: int = N_BINS) -> list[Bin]:
    """The bins of equal width that hold an answer, from low to high: the points of a reliability diagram.

    Raises ValueError for no answers, unlike lengths, or a confidence outside 0 to 1.
    """
    confident, right = np.asarray(confidences, float), np.asarray(corrects, float)
    if not len(confident) or confident.shape != right.shape:
        raise ValueError(f"needs a confidence for each answer, not {len(confident)} for {len(right)}")
    if not ((confident >= 0) & (confident <= 1)).all():
        raise ValueError("a confidence is a probability, from 0 to 1")
    edges = np.arange(n_bins + 1) / n_bins
    number = np.searchsorted(edges[1:], confident)  # of the first bin whose upper edge is not below
    return [
        Bin(
            float(edges[k]), float(edges[k + 1]),
            float(confident[number == k].mean()), float(right[number == k].mean()), int((number == k).sum()),
        )
        for k in np.unique(number)
    ]  # fmt: skip


def expected_calibration_error(confidences: Sequence[float], corrects: Sequence[bool], n_bins: int = N_BINS) -> float:
    """Σ n_m / n · |accuracy − confidence| over the bins m, from 0 to 1 (eq. 3). Raises ValueError as `reliability`."""
    bins = reliability(confidences, corrects, n_bins)
    return sum(one.n * abs(one.accuracy - one.confidence) for one in bins) / len(confidences)


def brier_score(told: Sequence[Sequence[float]], expected: Sequence[int]) -> float:
    """The mean over answers of Σ_k (p_k − [k is the expected class])², from 0 to 2.  Brier 1950.

    `told` are the probabilities of each answer's classes. Raises ValueError for no answers, or unlike lengths.
    """
    if not told or len(told) != len(expected):
        raise ValueError(f"needs probabilities for each answer, not {len(told)} for {len(expected)}")
    return math.fsum(
        math.fsum((p - (k == right)) ** 2 for k, p in enumerate(of_row)) for of_row, right in zip(told, expected)
    ) / len(told)
