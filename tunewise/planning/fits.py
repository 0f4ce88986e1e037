"""How large a batch, and how long a row, fit into a device's memory: the largest whole numbers, from few rehearsals."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from tunewise.methods.base import Method
from tunewise.planning.rehearsals import Rehearsals
from tunewise.planning.work import Work

MOST_GUESSES = 12
"""After so many the bracket is halved: a guess from a curve that bends may creep up on the end."""


def largest_rows(known: Rehearsals, method: Method, work: Work, ceiling: int) -> int:
    """The largest batch that fits, of rows as long as these; 0 where none does."""
    return _largest_in(known, method, lambda n: replace(work, rows=n), work.rows, ceiling)


def largest_tokens(known: Rehearsals, method: Method, work: Work, ceiling: int) -> int:
    """The longest rows that fit, in batches as large as these; 0 where none does."""
    return _largest_in(known, method, lambda n: at_length(work, n), work.tokens, ceiling)


def at_length(work: Work, tokens: int) -> Work:
    """The same work on rows of another length, of which the same share is labels; a classifier has one a row."""
    labels = 1 if work.labels == 1 else max(1, round(work.labels * tokens / work.tokens))
    return replace(work, tokens=tokens, labels=labels)


def _largest_in(known: Rehearsals, method: Method, at: Callable[[int], Work], start: int, ceiling: int) -> int:
    memory_bytes, start = known.device.memory_bytes, min(start, ceiling)
    if known.least(at(start)) > memory_bytes:
        return 0  # which needs no rehearsal
    nothing = known.fixed_of(method, at(start))
    return largest(lambda n: known.bytes_of(method, at(n)), memory_bytes, ceiling, start, nothing)


def largest(bytes_at: Callable[[int], int], memory_bytes: int, ceiling: int, start: int = 1, at_zero: int = 0) -> int:
    """The largest n from 1 to `ceiling` for which bytes_at(n) ≤ memory_bytes, or 0 where not even 1 does.

    `bytes_at` must not fall. It is asked at `start`, and then where the parabola through the nearest known points, and
    `at_zero` for none, meets the memory: of a line or a parabola, as memory is in rows and in tokens, three to five
    times in all. What is told was asked: n fits, and n + 1 does not.
    """
    known = {0: at_zero}
    low, high = (0, ceiling + 1) if at_zero <= memory_bytes else (0, 1)
    guess, n_asked = start, 0
    while high - low > 1:
        known[guess] = bytes_at(guess)
        low, high = (guess, high) if known[guess] <= memory_bytes else (low, guess)
        n_asked += 1
        if n_asked > 1 and n_asked % 2 == 0 and low < (neighbour := low + 1 if guess == low else high - 1) < high:
            guess = neighbour  # most guesses are right, and this proves it
        elif n_asked > MOST_GUESSES:
            guess = (low + high) // 2
        else:
            guess = _crossing(known, memory_bytes, low, high)
    return low


def _crossing(known: dict[int, int], memory_bytes: int, low: int, high: int) -> int:
    """The last n strictly between `low` and `high` at which the curve through the known points is within the memory."""
    nearest = sorted(known, key=lambda n: min(abs(n - low), abs(n - high)))[:3]
    scale = float(max(nearest))
    curve = np.polynomial.Polynomial.fit(
        [n / scale for n in nearest], [float(known[n] - memory_bytes) for n in nearest], len(nearest) - 1
    )
    least, most = low + 1, high - 1
    while least < most:
        middle = (least + most + 1) // 2
        least, most = (middle, most) if curve(middle / scale) <= 0 else (least, middle - 1)
    return least
