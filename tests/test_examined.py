"""The doctor before a run: what it refuses, what it lets pass, and how often it is asked."""

import json
import logging
import shlex

import pytest

import tunewise
from tests.data.doctor.sick_rows import but, labelled, sentence
from tunewise.comparison import build_comparison
from tunewise.comparison import grid as comparison_grid
from tunewise.config import override
from tunewise.data.config import DataConfig
from tunewise.data.doctor import Rows, at_most
from tunewise.data.load import load_task
from tunewise.errors import UserError
from tunewise.models.load import load_base
from tunewise.run import build_recipe, examine_data, examined, refuse_unfit
from tunewise.run.examined import check_command
from tunewise.run.training_rows import training_rows


def write(folder, train, test=None):
    folder.mkdir()
    for part, rows in (("train", train), ("test", test or labelled(10, 600))):
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


@pytest.fixture
def one_sided(tmp_path):
    """Training rows of one label, and a test of two."""
    return write(tmp_path / "one-sided", but(labelled(), label=dict.fromkeys(range(40), "yes")))


def test_a_run_is_refused_with_the_reason_and_the_way_to_see_all(one_sided, tmp_path):
    with pytest.raises(UserError) as error:
        tunewise.train(one_sided, overrides={"train.steps": 1, "data.text": "text"}, out=tmp_path / "out")
    assert "is not fit to be trained on: all " in error.value.message
    assert "rows of train have the label 'yes'" in error.value.message
    assert f"tunewise data check {one_sided} --model tiny data.text=text" in error.value.hint
    assert "--ignore-findings" in error.value.hint
    assert not (tmp_path / "out").exists()


def test_findings_can_be_ignored(one_sided, tmp_path, without_a_fresh_process):
    quick = {"train.steps": 1, "data.train": 8, "retention": None}
    found = tunewise.train(one_sided, overrides=quick, out=tmp_path / "out", ignore_findings=True)
    assert found["n_trainable"] > 0
    assert tunewise.train(one_sided, overrides=quick, out=tmp_path / "out") == found  # done: nobody is asked again


def test_warnings_are_told_in_one_line(tmp_path, caplog):
    path = write(
        tmp_path / "rows", but(labelled(), text={12: sentence(2)}), but(labelled(10, 600), text={1: sentence(7)})
    )
    with caplog.at_level(logging.WARNING, "tunewise"):
        refuse_unfit([build_recipe({"data": path, "method": "lora"})])
    (record,) = caplog.records
    assert "of test also in train; 1 row" in record.getMessage()
    assert record.getMessage().endswith(f"tunewise data check {path} --model tiny")
    assert "\n" not in record.getMessage()


def test_the_command_says_all_that_the_data_does(tmp_path):
    said = {
        "path": str(tmp_path / "a b.jsonl"), "prompt": "{q} says\nA:", "answer": " {no}", "label": None, "text": "yes",
        "splits": {"train": "all"}, "words": {"a": "b"}, "metrics": ("accuracy", "mcc"), "split": (0.5, 0.25, 0.25),
        "roles": ("user", "tool"), "seed": 3,
    }  # fmt: skip
    data = DataConfig.model_validate(said)
    _, _, _, path, _, model, *words = shlex.split(check_command(data, "tiny"))
    assert model == "tiny"
    assert DataConfig.model_validate(override({}, words)["data"] | {"path": path}) == data
    mixed = DataConfig.model_validate(
        {"mixture": {"mixing": "weights", "sources": {"mood": {"path": "tiny:sentiment", "weight": 2, "train": 9}}}}
    )
    assert check_command(mixed.each["mood"], "tiny").endswith("tiny:sentiment --model tiny data.train=9")


def test_of_many_rows_some_are_looked_at_from_all_over_the_file():
    task = load_task("tiny:sentiment")
    few = at_most(task, 200)
    assert [len(part) for part in (few.train, few.dev, few.test)] == [200, 200, 200]
    assert few.train == tuple(task.train[number * 500 // 200] for number in range(200))
    assert few.dev == task.dev
    assert at_most(task, 1_000) == task


def test_a_comparison_asks_once_for_all_arms_and_seeds(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(examined, "task_of", lambda data, _: asked.append(data.path) or load_task(data))
    recipes = build_comparison(
        {"data": "tiny:sentiment", "arms": ["lora", "bitfit", "full"], "seeds": (0, 1), "trials": 2}
    ).recipes
    refuse_unfit([recipe for of_arm in recipes.values() for recipe in of_arm])
    assert asked == ["tiny:sentiment"]


@pytest.mark.parametrize("ignored", [False, True])
def test_a_comparison_is_refused_before_anything_is_loaded(ignored, one_sided, tmp_path, monkeypatch):
    class Reached(Exception):
        pass

    def reached(*_):
        raise Reached

    monkeypatch.setattr(comparison_grid, "carry_out", reached)
    fields = {"data": one_sided, "arms": ["frozen"], "seeds": (0,), "ignore_findings": ignored}
    with pytest.raises(Reached if ignored else UserError):
        comparison_grid.carry_out_comparison(build_comparison(fields), tmp_path / "out")


@pytest.mark.parametrize("task", ["sentiment", "entailment", "translation", "headline", "instruction"])
def test_the_embedded_tasks_are_fit(task):
    found = examine_data(DataConfig(path=f"tiny:{task}"))
    assert found.is_fit
    assert found.account.proved
    assert found.account.rows == sum(found.account.used.values())


@pytest.mark.parametrize("max_length", [16, 30, 512])
def test_the_account_is_that_of_the_run(max_length):
    base = load_base("tiny")
    rows = examined.rows_of(DataConfig(path="tiny:headline"), "tiny", max_length=max_length)
    assert isinstance(rows, Rows)
    assert rows.reading is not None
    ledger = training_rows(base, rows.task, min(max_length, base.anatomy.context_length)).ledger
    assert rows.reading.parts["train"].ledger == ledger
    assert rows.reading.context == base.anatomy.context_length
