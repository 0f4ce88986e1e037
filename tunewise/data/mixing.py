"""Mixing rates of several sources, and an order of draws in which each has its share of every stretch.

Rates: Raffel et al. 2020, arXiv:1910.10683, section 3.5.2: in proportion to the rows, none counting more than a limit,
and a temperature; a limit of 3,000: Wei et al. 2022, arXiv:2109.01652, section 2.4. Order: Tijdeman 1980, The chairman
assignment problem, Discrete Mathematics 32: of any first t draws a source has t times its rate, but for less than one.
"""

import heapq
import math
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Literal

Mixing = Literal["proportional", "equal", "weights"]
ROUNDING = 1e-9
"""How far a time that is computed in float64 may lie from a whole one."""


def proportional_rates(sizes: Sequence[int], cap: int, temperature: float = 1.0) -> list[float]:
    """Rates of sources with so many rows: min(rows, cap) to the power of 1/temperature, with the sum 1.

    At temperature 1 they go by rows, and the higher it is the more alike they are.
    """
    counted = [min(size, cap) for size in sizes]
    largest = max(counted)
    return normalised([(each / largest) ** (1 / temperature) for each in counted])


def normalised(weights: Sequence[float]) -> list[float]:
    """Weights above 0, with the sum 1."""
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def interleaved(rates: Sequence[float]) -> Iterator[int]:
    """The number of the source of each draw, without end: a function of the rates alone.

    Draw k of a source with rate r falls between (k + s) / r and (k + 1 − s) / r, where s = 1 / (2 m − 2) for m sources;
    of those whose time has come, the one whose end comes first is drawn. Then no source is ever a whole draw ahead of
    or behind its rate.
    """
    slack = 1 / (2 * len(rates) - 2) if len(rates) > 1 else 0.0
    waiting = [(slack / rate, source, 0) for source, rate in enumerate(rates)]
    heapq.heapify(waiting)
    due: list[tuple[float, int, int]] = []
    for draw in count(1):
        while waiting and (waiting[0][0] <= draw + ROUNDING or not due):
            _, source, k = heapq.heappop(waiting)
            heapq.heappush(due, ((k + 1 - slack) / rates[source], source, k))
        _, source, k = heapq.heappop(due)
        yield source
        heapq.heappush(waiting, ((k + 1 + slack) / rates[source], source, k + 1))
