"""Metrics of one's own: read from the file that is named, from 0 to 100 or lower, of all rows or of each."""

import json

import pytest

import tunewise
from tunewise.data.described import TaskFile
from tunewise.directions import LOWER_IS_BETTER
from tunewise.errors import UserError
from tunewise.evaluation.metrics import Answers, by_row, named, score
from tunewise.evaluation.own_metrics import own_metric, spelled, without
from tunewise.report.words import metric_name
from tunewise.run.recipe import build_recipe
from tunewise.verdict import Rule

CODE = """
import math

def same_length(predictions, references):
    return [100.0 * (len(one) == len(other)) for one, other in zip(predictions, references)]

def letters_off(predictions, references):
    return sum(abs(len(one) - len(other)) for one, other in zip(predictions, references)) / len(references)

def accuracy(predictions, references):
    return 1.0

def too_few(predictions, references):
    return [1.0]

def in_words(predictions, references):
    return "good"

def endless(predictions, references):
    return math.inf

def broken(predictions, references):
    raise KeyError("label")

number = 3
"""
ANSWERS = Answers(predicted=("aa", "b", "ccc"), expected=("bb", "b", "c"))
QUICK = {"data.train": 32, "data.dev": 16, "data.test": 16, "train.steps": 4}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(CODE)
    return path


def first_letters(predictions, references):
    return [100.0 * (one[:1] == other[:1]) for one, other in zip(predictions, references)]


def test_it_is_told_under_the_name_of_its_function(file):
    names = [named(f"{file}:same_length"), named(f"{file}:letters_off:lower"), "accuracy"]
    assert names == ["same_length", "letters_off:lower", "accuracy"]
    assert score(names, ANSWERS) == {
        "same_length": pytest.approx(200 / 3),
        "letters_off:lower": pytest.approx(2 / 3),
        "accuracy": pytest.approx(100 / 3),
    }
    assert by_row("same_length", ANSWERS) == [100.0, 100.0, 0.0]
    assert by_row("letters_off:lower", ANSWERS) is None
    assert by_row("accuracy", ANSWERS) is None


def test_its_direction_is_that_of_its_name(file):
    assert "letters_off:lower" in LOWER_IS_BETTER
    assert "letters_off" not in LOWER_IS_BETTER
    assert Rule.of("letters_off:lower").lower_is_better
    assert metric_name("letters_off:lower") == "letters off"
    assert metric_name("a.letters_off:lower") == "letters off of a"


def test_a_changed_file_is_read_again(file):
    assert score([named(f"{file}:same_length")], ANSWERS)["same_length"] > 60
    file.write_text("def same_length(predictions, references):\n    return 7.0\n")
    assert score([named(f"{file}:same_length")], ANSWERS) == {"same_length": 7.0}


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("too_few", r"told numbers of shape \(1,\) of 3 rows"),
        ("in_words", "told 'good', which is no number"),
        ("endless", "told a number that is not finite"),
        ("broken", "failed: KeyError: 'label'"),
    ],
)
def test_what_it_does_wrong_is_told(file, function, told):
    name = named(f"{file}:{function}")
    with pytest.raises(UserError, match=told):
        score([name], ANSWERS)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("mine.py:same_length", "mine.py"),
        ("{file}:same_lenght", "same_lenght"),
        ("{file}:number", "number"),
        ("{file}:accuracy", "accuracy is a metric already"),
    ],
)
def test_a_wrong_name_is_told_before_anything_is_run(file, name, told):
    with pytest.raises(UserError, match=told):
        named(name.format(file=file))


def test_a_run_is_decided_by_it_and_keeps_what_each_row_is_worth(file, tmp_path):
    asked = {**QUICK, "data.metrics": f"{file}:same_length,accuracy"}
    found = tunewise.train("tiny:sentiment", out=tmp_path / "run", overrides=asked)
    rows = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    expected = [100.0 * (len(row["predicted"]) == len(row["expected"])) for row in rows]
    assert [row["worth"] for row in rows] == expected
    assert found["test"] == {"same_length": pytest.approx(sum(expected) / 16), "accuracy": found["test"]["accuracy"]}
    again = tunewise.evaluate(tmp_path / "run")
    assert "same_length" not in again["metrics"], "code that a run folder names is not run"
    again = tunewise.evaluate(tmp_path / "run", overrides={"data.metrics": [f"{file}:same_length"]})
    assert again["metrics"] == {"same_length": found["test"]["same_length"]}
    file.write_text(CODE + "\n# changed\n")
    with pytest.raises(UserError, match="has changed since"):
        tunewise.train("tiny:sentiment", out=tmp_path / "run", overrides=asked)


def test_a_function_of_this_process_is_named_by_its_file():
    asked = build_recipe({"data": {"path": "tiny:sentiment", "metrics": [first_letters, "accuracy"]}, "method": "lora"})
    assert asked.data.metrics == (f"{__file__}:first_letters", "accuracy")
    asked = build_recipe({"data": "tiny:sentiment", "method": "lora"}, {"data.metrics": [first_letters]})
    assert asked.data.metrics == (f"{__file__}:first_letters",)
    own = own_metric(spelled(first_letters))
    assert own is not None
    assert own.by_row(["ab", "c"], ["ax", "d"]) == [100.0, 0.0]
    with pytest.raises(UserError, match="is not at the top of a file"):
        build_recipe({"data": "tiny:sentiment", "method": "lora"}, {"data.metrics": [lambda one, other: 0.0]})
    with pytest.raises(UserError, match="a recipe cannot hold"):
        build_recipe({"data": "tiny:sentiment", "method": "lora"}, {"data.metrics": {1, 2}})


def test_a_folder_names_no_code(file):
    sources = {"a": {"path": "x.csv", "metrics": [f"{file}:f"]}, "b": {"path": "y.csv"}}
    fields = {"path": "", "metrics": [f"{file}:f", "bleu"], "mixture": {"sources": sources}}
    left = without(fields)
    assert left["metrics"] == ["bleu"]
    assert left["mixture"]["sources"] == {"a": {"path": "x.csv", "metrics": None}, "b": {"path": "y.csv"}}
    with pytest.raises(ValueError, match="no folder of data names"):
        TaskFile(name="a", kind="generation", prompt="{a}", answer="{b}", metrics=(f"{file}:f",))
