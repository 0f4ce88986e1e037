"""stats.py against scipy's own tests, and its words about one value and no variance."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats as reference

from tunewise.stats import Interval, Welch, mean_interval, welch

numbers = st.lists(st.integers(-1000, 1000).map(lambda n: n / 7), min_size=2, max_size=12)


@given(numbers, st.sampled_from([0.8, 0.95, 0.99]))
def test_interval_is_scipys(values, confidence):
    assume(len(set(values)) > 1)
    mine = mean_interval(values, confidence)
    low, high = reference.t.interval(
        confidence, len(values) - 1, loc=sum(values) / len(values), scale=reference.sem(values)
    )
    assert mine.low == pytest.approx(low, rel=1e-10, abs=1e-10)
    assert mine.high == pytest.approx(high, rel=1e-10, abs=1e-10)
    assert mine.high - mine.mean == pytest.approx(mine.half_width, abs=1e-10)
    assert mine.n == len(values)


@given(numbers, numbers)
def test_welch_is_scipys(a, b):
    assume(len(set(a)) > 1 and len(set(b)) > 1)
    mine, theirs = welch(a, b), reference.ttest_ind(a, b, equal_var=False)
    assert mine.t == pytest.approx(theirs.statistic, rel=1e-10, abs=1e-10)
    assert mine.df == pytest.approx(theirs.df, rel=1e-10)
    assert mine.p == pytest.approx(theirs.pvalue, rel=1e-10, abs=1e-10)
    swapped = welch(b, a)
    assert (swapped.t, swapped.p) == (-mine.t, mine.p)


def test_a_known_interval():
    # t(2; 0.975) = 4.302652729696...; s = 1, n = 3
    interval = mean_interval([1.0, 2.0, 3.0])
    assert interval.mean == 2.0
    assert interval.half_width == pytest.approx(4.302652729911275 / math.sqrt(3), rel=1e-10)


def test_one_value_has_no_bounds():
    assert mean_interval([0.3]) == Interval(0.3, -math.inf, math.inf, math.inf, 1)


def test_equal_values_have_an_exact_interval():
    assert mean_interval([0.1, 0.1, 0.1]) == Interval(0.1, 0.1, 0.1, 0.0, 3)


def test_welch_with_one_value_tells_nothing():
    assert welch([1.0], [2.0, 3.0]) == Welch(0.0, 0.0, 1.0)
    assert welch([2.0, 3.0], [1.0]) == Welch(0.0, 0.0, 1.0)


def test_welch_without_variance():
    assert welch([1.0, 1.0], [1.0, 1.0, 1.0]) == Welch(0.0, 3.0, 1.0)
    assert welch([2.0, 2.0], [1.0, 1.0]) == Welch(math.inf, 2.0, 0.0)
    assert welch([1.0, 1.0], [2.0, 2.0]) == Welch(-math.inf, 2.0, 0.0)


def test_welch_with_variance_on_one_side_only():
    mine, theirs = welch([1.0, 1.0, 1.0], [1.0, 2.0, 4.0]), reference.ttest_1samp([1.0, 2.0, 4.0], 1.0)
    assert (mine.t, mine.df) == (pytest.approx(-theirs.statistic, rel=1e-10), 2.0)
    assert mine.p == pytest.approx(theirs.pvalue, rel=1e-10)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_no_values_or_no_finite_ones_are_refused(values):
    with pytest.raises(ValueError, match="finite numbers"):
        mean_interval(values)
