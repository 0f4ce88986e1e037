"""Quality against cost: which arms are on the front, and that parts of two figures on one page are not confused."""

import re
from pathlib import Path

import pytest

from tests.report.runs import write_runs
from tunewise.report.arms import Arm, read_arms
from tunewise.report.figure import front, panels, quality_against_cost


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
