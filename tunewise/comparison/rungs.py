"""Successive halving: all trials run a part of the way, the better half of them goes on.

Jamieson & Talwalkar 2016, "Non-stochastic best arm identification and hyperparameter optimization", arXiv:1502.07943,
figure 3, with rungs that end at the whole length of a run, where the last two are told apart.
"""

import math
from collections.abc import Sequence

FIRST_SHARE = 0.25
"""Of the steps, at which trials are halved for the first time."""


def shares(n_trials: int) -> tuple[float, ...]:
    """The share of the steps at each rung: halvings until one is left, evenly on a logarithmic scale up to 1."""
    n_halvings = math.ceil(math.log2(n_trials))
    if n_halvings < 2:
        return (1.0,) * n_halvings
    return tuple(FIRST_SHARE ** (1 - rung / (n_halvings - 1)) for rung in range(n_halvings))


def sizes(n_trials: int) -> tuple[int, ...]:
    """How many trials run to each rung."""
    found = []
    while n_trials > 1:
        found.append(n_trials)
        n_trials = math.ceil(n_trials / 2)
    return tuple(found)


def better_half(scores: Sequence[tuple[float, ...]]) -> list[int]:
    """The numbers of the better half (of three: two), best first; of equals the earlier; -inf is never kept.

    A score is a tuple: what follows the first number decides between those equal in it.
    """
    ranked = sorted(range(len(scores)), key=lambda number: scores[number], reverse=True)  # stable: equals stay in order
    return [number for number in ranked[: math.ceil(len(scores) / 2)] if scores[number][0] > -math.inf]
