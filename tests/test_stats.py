"""stats.py against scipy's own tests, and its words about one value and no variance."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import integrate
from scipy import stats as reference
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestIndPower
from statsmodels.stats.weightstats import ttost_ind

from tunewise.stats import (
    Flips,
    Interval,
    Welch,
    detectable_gap,
    difference_interval,
    equivalence,
    hedges_g,
    holm,
    mcnemar,
    mean_interval,
    of_rounding,
    paired_bootstrap,
    power,
    seeds_to_see,
    welch,
)

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


@given(numbers, numbers, st.sampled_from([0.9, 0.95, 0.99]))
def test_the_interval_of_a_difference_is_scipys(a, b, confidence):
    assume(len(set(a)) > 1 and len(set(b)) > 1)
    mine = difference_interval(a, b, confidence)
    theirs = reference.ttest_ind(a, b, equal_var=False).confidence_interval(confidence)
    assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high), rel=1e-10, abs=1e-10)
    assert (mine.low > 0 or mine.high < 0) == (welch(a, b).p < 1 - confidence)


def test_a_difference_with_one_value_has_no_bounds():
    assert difference_interval([3.0], [1.0, 2.0]) == Interval(1.5, -math.inf, math.inf, math.inf, 1)


def test_a_difference_without_variance_is_exact():
    assert difference_interval([3.0, 3.0], [1.0, 1.0, 1.0]) == Interval(2.0, 2.0, 2.0, 0.0, 2)


def test_holm_is_statsmodels():
    drawn = np.random.default_rng(0)
    for n in [1, 2, 3, 10, 28] * 2:
        p_values = list(np.round(drawn.random(n) ** 3, drawn.integers(1, 9)))  # many small ones, and ties
        assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1], rel=1e-10, abs=1e-10)


def test_holm_of_no_test_is_none():
    assert holm([]) == []


@given(numbers, numbers)
def test_hedges_g_is_the_plain_formula(a, b):
    assume(len(set(a)) > 1 and len(set(b)) > 1)
    freedom = len(a) + len(b) - 2
    pooled = ((len(a) - 1) * np.var(a, ddof=1) + (len(b) - 1) * np.var(b, ddof=1)) / freedom
    correction = math.gamma(freedom / 2) / (math.sqrt(freedom / 2) * math.gamma((freedom - 1) / 2))
    assert hedges_g(a, b) == pytest.approx(
        correction * (np.mean(a) - np.mean(b)) / math.sqrt(pooled), rel=1e-9, abs=1e-9
    )


def test_hedges_g_where_nothing_scatters_is_unknown():
    assert hedges_g([1.0, 1.0], [2.0, 2.0]) is None
    assert hedges_g([1.0], [2.0, 3.0]) is None


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=40))
def test_mcnemar_is_a_coin_on_the_items_that_differ(items):
    first, second = [one for one, _ in items], [other for _, other in items]
    found = mcnemar(first, second)
    b, c = items.count((True, False)), items.count((False, True))
    assert (found.only_first, found.only_second) == (b, c)
    expected = reference.binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
    assert found.p == pytest.approx(expected, rel=1e-10)


def test_mcnemar_needs_the_same_items():
    assert mcnemar([], []) == Flips(0, 0, 1.0)
    with pytest.raises(ValueError, match="not 1 and 2"):
        mcnemar([True], [True, False])


def test_the_paired_bootstrap_is_scipys():
    drawn = np.random.default_rng(3)
    first, second = drawn.normal(0.4, 1, 60), drawn.normal(0, 1, 60)
    mine = paired_bootstrap(first, second, n_resamples=20_000, seed=1)
    theirs = reference.bootstrap(
        (first, second),
        lambda a, b, axis: (a - b).mean(axis),
        paired=True,
        n_resamples=20_000,
        method="percentile",
        rng=2,
    ).confidence_interval
    assert mine.mean == pytest.approx(np.mean(first - second), rel=1e-12)
    assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)  # each draws its own items
    assert mine == paired_bootstrap(first, second, n_resamples=20_000, seed=1)


def test_the_paired_bootstrap_is_the_plain_one_to_the_last_digits():
    first, second = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0]
    drawn, means = np.random.default_rng(5), []
    for _ in range(1_000):
        rows = drawn.integers(0, 7, 7)
        means.append(sum(first[row] - second[row] for row in rows) / 7)
    mine = paired_bootstrap(first, second, n_resamples=1_000, seed=5)
    assert (mine.low, mine.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=1e-10)


@pytest.mark.parametrize("n", [2, 3, 5, 10, 40])
@pytest.mark.parametrize("alpha", [0.05, 0.005])
def test_power_is_its_integral(n, alpha):
    """Over the share that one variance has of both; w = sin² u takes the poles off the ends."""
    share = reference.beta((n - 1) / 2, (n - 1) / 2)
    for gap in (0.0, 0.3, 1.0, 2.5):
        away = gap * math.sqrt(n / 2)

        def seen(u, away=away):
            w = math.sin(u) ** 2
            critical = reference.t.isf(alpha / 2, (n - 1) / (w**2 + (1 - w) ** 2))
            tails = reference.nct.sf(critical, 2 * n - 2, away), reference.nct.cdf(-critical, 2 * n - 2, away)
            return share.pdf(w) * 2 * math.sin(u) * math.cos(u) * float(np.nan_to_num(tails).sum())

        expected = integrate.quad(seen, 1e-12, math.pi / 2 - 1e-12, epsabs=1e-12, epsrel=1e-12, limit=400)[0]
        assert power(2 * gap, 2.0, n, alpha) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_power_is_how_often_welch_sees_it(n):
    drawn = np.random.default_rng(0)
    first, second = drawn.normal(1.7, 1, (100_000, n)), drawn.normal(0, 1, (100_000, n))
    seen = reference.ttest_ind(first, second, axis=1, equal_var=False).pvalue < 0.05
    assert power(1.7, 1.0, n) == pytest.approx(seen.mean(), abs=3 * 0.5 / math.sqrt(100_000))


def test_with_many_values_power_is_students_as_in_statsmodels():
    assert power(0.4, 1.0, 500) == pytest.approx(TTestIndPower().power(0.4, 500, 0.05), abs=1e-5)


@pytest.mark.parametrize("n", [2, 3, 5, 40])
def test_the_detectable_gap_is_detected_four_times_in_five(n):
    assert power(detectable_gap(2.0, n, 0.01), 2.0, n, 0.01) == pytest.approx(0.8, abs=1e-9)


def test_the_seeds_that_a_gap_needs_are_the_least():
    for gap in (0.4, 1.0, 3.0, 20.0):
        n = seeds_to_see(gap, 1.0)
        assert n is not None
        assert power(gap, 1.0, n) >= 0.8
        assert power(gap, 1.0, n - 1) < 0.8
    assert seeds_to_see(1.0, 1.0) == math.ceil(TTestIndPower().solve_power(1.0, None, 0.05, 0.8)) == 17
    assert seeds_to_see(0.001, 1.0) is None


def test_power_at_its_ends():
    assert power(1.0, 1.0, 1) == 0.0
    assert (power(1.0, 0.0, 3), power(0.0, 0.0, 3)) == (1.0, 0.0)
    assert 0.05 < power(16.0, 2.0, 2, alpha=0.01) < 0.5  # its far tail is too small for a double
    assert detectable_gap(1.0, 1) == math.inf
    assert detectable_gap(0.0, 3) == 0.0


def test_a_variance_below_that_of_rounding_counts_as_that():
    """Six values on one step scatter by what rounding hides: against Welch's formula with that variance."""
    least = of_rounding(2.0)
    assert least == pytest.approx(np.var(np.linspace(-1, 1, 100_001)), rel=1e-4)
    found = welch([90.0] * 3, [86.0] * 3, least)
    root = math.sqrt(least)
    scattered = welch([90.0 - root, 90.0, 90.0 + root], [86.0 - root, 86.0, 86.0 + root])
    assert (found.t, found.df, found.p) == pytest.approx((scattered.t, scattered.df, scattered.p))
    assert difference_interval([90.0] * 3, [86.0] * 3, least=least).half_width == pytest.approx(
        reference.t.ppf(0.975, 4) * math.sqrt(2 * least / 3)
    )
    assert welch([80.0, 99.0], [60.0, 70.0], least) == welch([80.0, 99.0], [60.0, 70.0])


@pytest.mark.parametrize("margin", [0.1, 1.0, 2.0, 30.0])
def test_equivalence_is_both_one_sided_tests_of_statsmodels(margin):
    drawn = np.random.default_rng(5)
    for n, shift in ((2, 0.0), (5, 0.4), (9, -3.0)):
        a, b = drawn.normal(80, 1.0, n), drawn.normal(80 + shift, 2.0, n + 1)
        wanted, *_ = ttost_ind(a, b, -margin, margin, usevar="unequal")
        assert equivalence(a.tolist(), b.tolist(), margin) == pytest.approx(wanted, rel=1e-9)


def test_what_is_equivalent_has_its_interval_of_twice_alpha_inside_the_margin():
    drawn = np.random.default_rng(6)
    seen = set()
    for _ in range(60):
        a, b = drawn.normal(80, 1.0, 5).tolist(), drawn.normal(80.5, 1.0, 5).tolist()
        found = difference_interval(a, b, confidence=0.9)
        is_inside = found.low > -2 and found.high < 2
        assert (equivalence(a, b, 2.0) < 0.05) == is_inside
        seen.add(is_inside)
    assert seen == {True, False}


def test_equivalence_where_little_is_known():
    assert equivalence([90.0], [90.0, 91.0], 2.0) == 1.0
    assert (equivalence([90.0] * 3, [91.0] * 3, 2.0), equivalence([90.0] * 3, [92.0] * 3, 2.0)) == (0.0, 1.0)
    assert equivalence([90.0] * 3, [90.0] * 3, 0.0) == 1.0
    assert equivalence([90.0, 92.0], [91.0, 91.5], 0.0) >= 0.5
    # what rounding to one item in ten may hide is no knowledge
    assert equivalence([90.0] * 3, [90.0] * 3, 2.0, of_rounding(10.0)) > 0.05
