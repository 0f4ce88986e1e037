"""Quality against cost: which arms are on the front, and that parts of two figures on one page are not confused."""

import io
import re
from pathlib import Path

import pytest

from tests.report.runs import write_runs
from tunewise.report.arms import Arm, read_arms
from tunewise.report.figure import N_SERIES, _in_decades, front, panels, quality_against_cost, shape_of, subplots
from tunewise.report.words import tick


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> list[Arm]:
    return read_arms(write_runs(tmp_path_factory.mktemp("runs")))


def brute_force(arms: list[Arm], costs: list[float]) -> set[str]:
    """Whoever is not beaten: no other has as good a mean at as low a cost, and one of both better."""
    points = [(arm.label, arm.quality.mean, cost) for arm, cost in zip(arms, costs, strict=True)]
    return {
        label
        for label, mean, cost in points
        if not any(m >= mean and c <= cost and (m > mean or c < cost) for _, m, c in points)
    }


def test_no_two_of_a_hundred_ways_have_colour_and_mark_in_common() -> None:
    assert len({(number % N_SERIES, shape_of(number)) for number in range(100)}) == 100


def test_the_front_is_whom_no_other_beats(arms: list[Arm]) -> None:
    drawn = panels(arms)
    assert [panel.title for panel in drawn] == ["training, seconds", "trained parameters", "forgetting, nats per token"]
    for panel in drawn:
        found = [arms[index].label for index in front(arms, panel)]
        assert set(found) == brute_force(arms, [value or 0.0 for value in panel.values])
        assert 2 <= len(found) < len(arms)


def test_no_two_figures_share_an_id(arms: list[Arm], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    wide, narrow = quality_against_cost(arms), quality_against_cost(arms, narrow=True)
    ids = [set(re.findall(r'\bid="([^"]+)"', text)) for text in (wide, narrow)]
    assert min(map(len, ids)) > 20
    assert not ids[0] & ids[1]
    for text, known in zip((wide, narrow), ids, strict=True):
        used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text))
        assert used
        assert {a or b for a, b in used} <= known


@pytest.mark.parametrize("span", [1.0, 1.1, 1.5, 2.3, 4.9, 6.0, 29.0, 80.0, 299.0, 943.0, 2e4])
def test_a_logarithmic_axis_always_shows_plain_numbers(span: float) -> None:
    for low in (1_540, 21_000, 61_000, 8_700_000):
        drawn, (axis,) = subplots((1, 1), width=4, height=3)
        axis.set_xscale("log")
        _in_decades(axis.xaxis, span, tick)
        axis.plot([low, low * span], [0, 1], "o")
        axis.margins(x=0.12)
        drawn.savefig(io.StringIO(), format="svg")
        left, right = axis.get_xlim()
        shown = [one.label1.get_text() for one in axis.xaxis.get_major_ticks() if left <= one.get_loc() <= right]
        most = 7 if span > 4 else 10
        assert 1 <= len([text for text in shown if text]) <= most, (low, span, shown)
        assert not any("$" in text for text in shown)
