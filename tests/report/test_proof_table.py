"""Proofs gathered over seeds, the planner's grades, and what a retention suite says, from hand-written metrics."""

from dataclasses import replace
from typing import Any

import pytest

from tests.report.runs import write_runs
from tunewise.report.arms import Arm, read_arms
from tunewise.report.forgotten import forgotten_tasks
from tunewise.report.proof_table import planner_grades, proof_table


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Arm]:
    return {arm.label: arm for arm in read_arms(write_runs(tmp_path_factory.mktemp("runs")))}


def with_metrics(arm: Arm, *changes: dict[str, Any]) -> Arm:
    """The arm with other metrics, a mapping a seed."""
    runs = tuple(replace(run, metrics={**run.metrics, **new}) for run, new in zip(arm.runs, changes, strict=True))
    return replace(arm, runs=runs)


def test_a_proof_that_one_seed_fails_is_failed_with_the_largest_difference(arms: dict[str, Arm]) -> None:
    differences = ({"passed": True, "value": value, "tolerance": 0.1} for value in (0.01, 0.02, 0.03))
    found = [{"proofs": {"fold_equals_attached": proof}} for proof in differences]
    found[1]["proofs"]["fold_equals_attached"]["passed"] = False
    found[2]["proofs"]["has_an_effect"] = {"passed": True, "value": 7.0, "tolerance": None}
    found[0]["proofs_left_out"] = {"off_is_the_base": "the base is quantised"}
    table = proof_table([with_metrics(arms["lora"], *found), arms["frozen (shots=0)"]])
    assert table.names == ("fold equals attached", "has an effect")
    assert (table.n_passed, table.n_checked) == (3, 4)
    ((arm, cells),) = table.columns
    assert arm.label == "lora"
    assert cells == ({"passed": False, "value": 0.03}, {"passed": True, "value": None})
    assert table.left_out == (("lora", "off is the base", "the base is quantised"),)


def test_the_planner_is_graded_by_what_was_measured(arms: dict[str, Arm]) -> None:
    assert planner_grades(list(arms.values())) == []
    plan = {"planned": {"n_trainable": 49_152, "adapter_bytes": 196_608, "train_seconds": None}}
    grades = planner_grades([with_metrics(arms["lora"], plan, plan, plan), arms["full"]])
    assert [(grade.what, grade.planned, grade.measured, grade.error) for grade in grades] == [
        ("trained parameters", "49,152", "49,152", "exact"),
        ("adapter on disk", "197 kB", "201 kB", "−2.4 %"),  # 196,608 / 201,344 − 1
    ]


def test_a_suite_is_told_task_by_task(arms: dict[str, Arm]) -> None:
    def suite(lost: int, tuned: float) -> dict[str, Any]:
        texts = {
            "task": "texts",
            "metric": "loss",
            "base": 2.0,
            "tuned": 2.5,
            "n_items": 90,
            "n_gained": 1,
            "n_lost": 80,
        }
        told = {"task": "capitals", "metric": "accuracy", "base": 60.0, "tuned": tuned, "n_items": 50, "n_gained": 2}
        return {"retention": {"change": 0.5, "suite": [texts, {**told, "n_lost": lost}]}}

    assert forgotten_tasks(list(arms.values())) == []
    arm = with_metrics(arms["lora"], suite(10, 44.0), suite(11, 42.0), suite(12, 40.0))
    texts, capitals = forgotten_tasks([arm, arms["frozen (shots=0)"]])
    assert (texts.metric, texts.before, texts.after, texts.n_lost) == ("nats per token", "2.000", "2.500", 80)
    assert (capitals.metric, capitals.before, capitals.after) == ("accuracy %", "60.0", "42.0")
    assert (capitals.n_lost, capitals.n_gained, capitals.n_items) == (11, 2, 50)
