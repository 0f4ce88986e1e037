"""What the page tells of the sources of a mixture."""

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest

from tests.report.runs import write_runs
from tunewise.report.arms import Arm, read_arms
from tunewise.report.page import render
from tunewise.report.score_rows import source_rows
from tunewise.report.source_curves import source_curves, source_losses
from tunewise.report.words import metric_name, quality, unit
from tunewise.stats import mean_interval


@pytest.fixture
def arms(tmp_path: Path) -> list[Arm]:
    """Runs whose task is a mixture of a and b."""
    for path in write_runs(tmp_path).rglob("metrics.json"):
        metrics = json.loads(path.read_text())
        score = metrics["test"]["accuracy"]
        own = {"a.accuracy": score, "a.macro_f1": score - 1, "b.loss": 2.5, "c-d.bleu": 7.0}
        path.write_text(json.dumps({**metrics, "test": {"macro_average": score, **own}}))
        if metrics["n_trainable"]:
            told = {"a": {"loss": 2.0, "label_tokens": 4}, "b": {"loss": 1.0 + metrics["seed"], "label_tokens": 9}}
            lines = [{"step": step, "loss": 1.5, "by_source": told} for step in (1, 2)]
            lines[1]["by_source"] = {"a": {"loss": 0.5, "label_tokens": 4}}
            (path.parent / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_arms(tmp_path)


def test_a_source_has_its_first_metric_of_each_arm(arms: list[Arm]) -> None:
    rows = source_rows(arms)
    assert [(row.name, row.metric) for row in rows] == [("a", "accuracy %"), ("b", "loss"), ("c-d", "BLEU")]
    assert len(rows[0].scores) == len(arms)
    assert rows[1].scores[0] == "2.500 ± 0.000"
    assert [arm.metric for arm in arms] == ["macro_average"] * len(arms)


def test_its_loss_is_the_mean_over_seeds(arms: list[Arm]) -> None:
    lora = next(arm for arm in arms if arm.label == "lora")
    assert source_losses(lora) == {"a": ([1.0, 2.0], [2.0, 0.5]), "b": ([1.0], [2.0])}
    frozen = next(arm for arm in arms if not arm.n_trainable)
    assert source_losses(frozen) == {}


def test_the_page_has_the_table_and_the_curves(arms: list[Arm]) -> None:
    pytest.importorskip("matplotlib")
    lora = next(arm for arm in arms if arm.label == "lora")
    figure = source_curves([lora])
    ElementTree.fromstring(figure)
    assert "training loss" in figure
    frozen = next(arm for arm in arms if not arm.n_trainable)
    assert source_curves([frozen]) == ""
    page = render([run for arm in (frozen, lora) for run in arm.runs])
    assert "Source by source" in page
    assert "The training loss of each source under lora" in page
    plain = [replace(run, metrics={**run.metrics, "test": {"accuracy": 1.0}}) for run in lora.runs]
    assert "Source by source" not in render(plain)


def test_the_metric_of_a_source_is_told_as_that_metric(arms: list[Arm]) -> None:
    assert metric_name("a.rougeL") == "ROUGE-L of a"
    assert (unit("a.accuracy"), unit("a.mcc")) == (" %", "")
    assert quality("b.loss", mean_interval([2.5])) == "2.500"
    assert quality("a.accuracy", mean_interval([52.84])) == "52.8"
