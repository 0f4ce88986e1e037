"""What is read off the logs for learning curves, and that both panels are drawn."""

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest

from tests.report.runs import write_runs
from tunewise.report.arms import Arm, read_arms
from tunewise.report.curves import dev_curve, learning_curves, smoothed_losses


@pytest.fixture
def arms(tmp_path: Path) -> dict[str, Arm]:
    return {arm.label: arm for arm in read_arms(write_runs(tmp_path))}


def with_log(arm: Arm, number: int, entries: list[dict]) -> None:
    (arm.runs[number].folder / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def test_a_dev_curve_is_the_mean_of_the_seeds_that_reached_the_step(arms: dict[str, Arm], tmp_path: Path) -> None:
    with_log(arms["lora"], 0, [{"step": 5, "dev": 60.0, "best": True}, {"step": 10, "dev": 50.0, "best": False}])
    with_log(arms["lora"], 1, [{"step": 5, "dev": 70.0, "best": True}, {"step": 10, "dev": 80.0, "best": True}])
    with_log(arms["lora"], 2, [{"step": 5, "dev": 80.0, "best": True}, {"step": 6, "loss": 1.0}])
    lora = next(arm for arm in read_arms(tmp_path) if arm.label == "lora")
    found = dev_curve(lora)
    assert found is not None
    assert (found.steps, found.means, found.lows, found.highs) == ((5, 10), (70, 65), (60, 50), (80, 80))
    assert found.kept == ((5, 60), (10, 80), (5, 80))
    assert dev_curve(arms["frozen (shots=0)"]) is None


def test_a_loss_on_dev_is_shown_as_a_loss(arms: dict[str, Arm]) -> None:
    runs = tuple(replace(run, log=({"step": 1, "dev": -2.5, "best": True},)) for run in arms["lora"].runs)
    found = dev_curve(replace(arms["lora"], metric="loss", runs=runs))
    assert found is not None
    assert found.means == (2.5,)


def test_losses_are_averaged_over_seeds_and_windows(arms: dict[str, Arm]) -> None:
    steps, losses = smoothed_losses(arms["lora"], n_points=50)
    assert 50 <= len(steps) == len(losses) <= 80
    assert losses[0] > 1.5 * losses[-1]


def test_the_figure_has_a_panel_for_what_the_logs_hold(arms: dict[str, Arm]) -> None:
    pytest.importorskip("matplotlib")
    both = learning_curves(list(arms.values()))
    ElementTree.fromstring(both)
    assert "accuracy on dev, %" in both
    assert "training loss" in both
    losses_only = [replace(arms["lora"], runs=tuple(replace(r, log=r.log[:9]) for r in arms["lora"].runs))]
    assert "on dev" not in learning_curves(losses_only)
    assert learning_curves([arms["frozen (shots=0)"]]) == ""
