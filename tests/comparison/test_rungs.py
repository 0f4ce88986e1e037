import math

import pytest

from tunewise.comparison.rungs import better_half, shares, sizes


def test_rungs_begin_at_a_quarter_and_end_at_the_whole_length():
    assert shares(1) == ()
    assert shares(2) == (1.0,)
    assert shares(4) == (0.25, 1.0)
    assert shares(3) == shares(4)
    assert shares(8) == (0.25, 0.5, 1.0)
    assert shares(16) == pytest.approx((0.25, 0.25 ** (2 / 3), 0.25 ** (1 / 3), 1.0))


@pytest.mark.parametrize("n", range(1, 40))
def test_each_rung_halves_until_one_is_left(n):
    alive, found = n, []
    while alive > 1:
        found.append(alive)
        alive = len(better_half([(float(number),) for number in range(alive)]))
    assert alive == 1
    assert tuple(found) == sizes(n)
    assert len(shares(n)) == len(sizes(n))


def test_the_better_half_is_ranked_and_of_equals_the_earlier_is_kept():
    assert better_half([(1.0,), (3.0,), (2.0,), (4.0,)]) == [3, 1]
    assert better_half([(5.0,), (5.0,), (5.0,), (5.0,)]) == [0, 1]
    assert better_half([(1.0,), (2.0,), (3.0,)]) == [2, 1]
    assert better_half([(5.0, -0.7), (5.0, -0.2), (5.0, -0.4), (4.0, -0.1)]) == [1, 2]
    assert better_half([(-math.inf, 0.0), (2.0, 0.0), (-math.inf, 0.0), (-math.inf, 0.0)]) == [1]
    assert better_half([(-math.inf,)] * 4) == []
