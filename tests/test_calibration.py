"""calibration.py against the equations written out in plain float64, one answer after the other."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewise.calibration import Bin, brier_score, expected_calibration_error, probabilities, reliability

answers = st.lists(st.tuples(st.integers(0, 3000).map(lambda n: n / 3000), st.booleans()), min_size=1, max_size=60)
scores = st.lists(st.floats(-80, 80), min_size=2, max_size=5)


@given(answers, st.sampled_from([1, 10, 15]))
def test_the_error_is_the_sum_over_bins(found, n_bins):
    expected, n_seen = 0.0, 0
    for m in range(1, n_bins + 1):
        inside = [(c, right) for c, right in found if (m - 1) / n_bins < c <= m / n_bins or (m == 1 and c == 0)]
        n_seen += len(inside)
        if inside:
            accuracy = sum(right for _, right in inside) / len(inside)
            confidence = sum(c for c, _ in inside) / len(inside)
            expected += len(inside) / len(found) * abs(accuracy - confidence)
    assert n_seen == len(found)
    confidences, corrects = [c for c, _ in found], [right for _, right in found]
    assert expected_calibration_error(confidences, corrects, n_bins) == pytest.approx(expected, abs=1e-12)
    bins = reliability(confidences, corrects, n_bins)
    assert sum(one.n for one in bins) == len(found)
    assert [one.low for one in bins] == sorted({one.low for one in bins})


def test_a_known_diagram():
    bins = reliability([0.0, 0.25, 0.5, 0.875, 1.0], [False, True, True, False, True], n_bins=4)
    assert bins == [
        Bin(0.0, 0.25, 0.125, 0.5, 2),
        Bin(0.25, 0.5, 0.5, 1.0, 1),
        Bin(0.75, 1.0, 0.9375, 0.5, 2),
    ]
    told = expected_calibration_error([0.0, 0.25, 0.5, 0.875, 1.0], [False, True, True, False, True], 4)
    assert told == pytest.approx((2 * 0.375 + 0.5 + 2 * 0.4375) / 5)


@given(scores)
def test_probabilities_are_the_softmax(values):
    found = probabilities(values)
    assert sum(found) == pytest.approx(1)
    assert max(found) <= 1
    for p, s in zip(found, values, strict=True):
        assert p == pytest.approx(1 / sum(math.exp(other - s) for other in values), rel=1e-9)
    assert probabilities([-2000.0, -2000.0]) == [0.5, 0.5]


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=20))
def test_of_two_classes_the_brier_score_is_twice_the_squared_error_of_one(found):
    told = [(1 - p, p) for p, _ in found]
    expected = sum((p - right) ** 2 for p, right in found) / len(found)
    assert brier_score(told, [int(right) for _, right in found]) == pytest.approx(2 * expected)


def test_brier_of_three_classes():
    assert brier_score([(0.5, 0.25, 0.25), (0.0, 0.0, 1.0)], [0, 0]) == pytest.approx((0.25 + 0.125 + 2) / 2)


@pytest.mark.parametrize(("confidences", "corrects"), [([], []), ([0.5], [True, False]), ([1.5], [True])])
def test_what_is_no_answer_is_refused(confidences, corrects):
    with pytest.raises(ValueError, match=r"confidence"):
        reliability(confidences, corrects)
    with pytest.raises(ValueError, match="needs probabilities"):
        brier_score([], [])
