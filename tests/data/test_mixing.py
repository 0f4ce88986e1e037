"""Mixing rates against their definition, and the order of draws against the bound of its theorem."""

import random
from itertools import islice

import numpy as np
import pytest

from tunewise.data.mixing import interleaved, normalised, proportional_rates

SIZES = (120, 3_000, 45_000, 7, 2_999)


def reference(sizes, cap, temperature):
    """T5, section 3.5.2: r = min(e, K) / sum of min(e, K), to the power of 1 / T, with the sum 1."""
    counted = np.minimum(np.asarray(sizes, np.float64), cap)
    raised = (counted / counted.sum()) ** (1 / np.float64(temperature))
    return raised / raised.sum()


@pytest.mark.parametrize("cap", [1, 100, 3_000, 10**9])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0, 1e6])
def test_rates_are_those_of_the_definition(cap, temperature):
    found = proportional_rates(SIZES, cap, temperature)
    np.testing.assert_allclose(found, reference(SIZES, cap, temperature), rtol=1e-12)
    assert sum(found) == pytest.approx(1, abs=1e-12)


def test_a_source_beyond_the_cap_counts_as_one_of_just_so_many_rows():
    assert proportional_rates([3_000, 1_000_000], 3_000) == [0.5, 0.5]
    assert proportional_rates([100, 300], 3_000) == [0.25, 0.75]


def test_temperature_goes_from_proportional_to_equal():
    assert proportional_rates(SIZES, 10**9, 1.0) == pytest.approx([size / sum(SIZES) for size in SIZES])
    np.testing.assert_allclose(proportional_rates(SIZES, 10**9, 1e9), 0.2, rtol=1e-6)
    small = [proportional_rates(SIZES, 10**9, temperature)[3] for temperature in (1, 2, 4, 8)]
    assert small == sorted(small)


@pytest.mark.parametrize("seed", range(40))
def test_no_source_is_ever_a_whole_draw_from_its_share(seed):
    """Tijdeman's bound: 1 − 1 / (2 m − 2), at every draw, whatever the rates."""
    draw = random.Random(seed)
    rates = normalised([10 ** draw.uniform(-3, 1) for _ in range(draw.randrange(2, 20))])
    drawn, worst = np.zeros(len(rates)), 0.0
    for number, source in enumerate(islice(interleaved(rates), 2_000), start=1):
        drawn[source] += 1
        worst = max(worst, float(np.abs(drawn - number * np.asarray(rates)).max()))
    assert drawn.sum() == 2_000
    assert worst <= 1 - 1 / (2 * len(rates) - 2) + 1e-6


def test_two_alike_take_turns_and_one_has_all():
    assert list(islice(interleaved([0.5, 0.5]), 6)) == [0, 1, 0, 1, 0, 1]
    assert list(islice(interleaved([1.0]), 3)) == [0, 0, 0]
