"""The figure of the forgetting dial, from hand-written dial.json files."""

import json
import xml.etree.ElementTree as ElementTree

import pytest

from tests.report.runs import write_runs
from tunewise.report.arms import Arm, read_arms
from tunewise.report.dial import DIAL, dial_figure, dial_of


def write_dial(folder, scores, losses, knee, scales=(0.0, 0.5, 1.0)):
    points = [
        {"scale": scale, "dev": score, "test": score, "retention": loss}
        for scale, score, loss in zip(scales, scores, losses, strict=True)
    ]
    (folder / DIAL).write_text(json.dumps({"metric": "accuracy", "points": points, "knee": knee}))


@pytest.fixture
def arms(tmp_path) -> dict[str, Arm]:
    return {arm.label: arm for arm in read_arms(write_runs(tmp_path))}


def test_without_a_dial_there_is_no_figure(arms):
    assert dial_of(arms["lora"]) is None
    assert dial_figure(list(arms.values())) == ""
    (arms["lora"].runs[0].folder / DIAL).write_text(json.dumps({"points": [{"scale": 0.0, "test": 1.0}], "knee": 0.0}))
    assert dial_figure(list(arms.values())) == "", "points without a retention loss cannot be drawn"


def test_an_arm_is_the_mean_of_its_seeds(arms):
    seeds = arms["lora"].runs
    write_dial(seeds[0].folder, (50.0, 80.0, 90.0), (2.0, 2.1, 2.5), 0.5)
    write_dial(seeds[1].folder, (50.0, 70.0, 80.0), (2.0, 2.3, 2.7), 1.0)
    write_dial(seeds[2].folder, (50.0, 90.0), (2.0, 9.0), 0.25, scales=(0.0, 0.25))  # other λ: left out
    found = dial_of(arms["lora"])
    assert (found.scales, found.scores, found.knee) == ((0.0, 0.5, 1.0), (50.0, 75.0, 85.0), 0.5)
    assert found.forgotten == pytest.approx((0.0, 0.2, 0.6))


def test_every_arm_with_a_dial_has_a_line_and_a_ringed_knee(arms):
    pytest.importorskip("matplotlib")
    write_dial(arms["lora"].runs[0].folder, (50.0, 80.0, 90.0), (2.0, 2.1, 2.5), 0.5)
    write_dial(arms["full"].runs[0].folder, (50.0, 60.0, 95.0), (2.0, 2.4, 3.0), 1.0)
    both = dial_figure(list(arms.values()))
    ElementTree.fromstring(both)
    assert both.startswith("<svg")
    assert both.count("λ = 0.5") == both.count("λ = 1") == 1
    names = list(arms)
    assert f"var(--series-{names.index('lora')})" in both
    assert f"var(--series-{names.index('full')})" in both
    assert f"var(--series-{names.index('bitfit')})" not in both
    assert "forgetting, nats per token" in both
    assert dial_figure(list(arms.values()), narrow=True) != both
