"""Metrics of one's own: read from the file that is named, from 0 to 100 or lower, of all rows or of each."""

import json
from types import SimpleNamespace

import pytest

import tunewise
from tunewise.data.described import TaskFile
from tunewise.directions import LOWER_IS_BETTER
from tunewise.errors import UserError
from tunewise.evaluation.evaluate import Evaluation
from tunewise.evaluation.metrics import Answers, check, score, with_worth
from tunewise.evaluation.own_metrics import called, check_own, own_metric, spelled, without
from tunewise.evaluation.suite import look_of
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
QUICK = {"data.train": 8, "data.dev": 8, "data.test": 16, "train.steps": 1, "retention": None}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(CODE)
    return path


def first_letters(predictions, references):
    return [100.0 * (one[:1] == other[:1]) for one, other in zip(predictions, references)]


def test_it_is_told_under_the_name_of_its_function(file):
    names = [f"{file}:same_length", f"{file}:letters_off:lower", "accuracy"]
    assert [called(name) for name in names] == ["same_length", "letters_off:lower", "accuracy"]
    assert score(names, ANSWERS) == {
        "same_length": pytest.approx(200 / 3),
        "letters_off:lower": pytest.approx(2 / 3),
        "accuracy": pytest.approx(100 / 3),
    }
    rows = [{"id": "a"}, {"id": "b"}, {"id": "c"}]
    worths = [row["worth"] for row in with_worth(rows, names[0], ANSWERS)]
    assert worths == [100.0, 100.0, 0.0]
    assert with_worth(rows, names[1], ANSWERS) == with_worth(rows, names[2], ANSWERS) == rows


def test_its_direction_is_that_of_its_name(file):
    assert "letters_off:lower" in LOWER_IS_BETTER
    assert "letters_off" not in LOWER_IS_BETTER
    assert Rule.of("letters_off:lower").lower_is_better
    assert metric_name("letters_off:lower") == "letters off"
    assert metric_name("a.letters_off:lower") == "letters off of a"


def test_a_changed_file_is_read_again(file):
    assert score([f"{file}:same_length"], ANSWERS)["same_length"] > 60
    file.write_text("def same_length(predictions, references):\n    return 7.0\n")
    assert score([f"{file}:same_length"], ANSWERS) == {"same_length": 7.0}


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("too_few", r"told numbers of shape \(1,\) of 3 rows"),
        ("in_words", "told 'good', which is no number"),
        ("endless", "told a number that is not finite"),
        ("broken", r"failed in line \d+: KeyError: 'label'"),
    ],
)
def test_what_it_does_wrong_is_told(file, function, told):
    with pytest.raises(UserError, match=told):
        score([f"{file}:{function}"], ANSWERS)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("mine.py:same_length", "mine.py"),
        ("{file}:same_lenght", "same_lenght"),
        ("{file}:number", "number"),
        ("{file}:accuracy", "accuracy is a metric already"),
        ("{file}:broken,{file.parent}/./mine.py:broken", "would both be called broken"),
    ],
)
def test_a_wrong_name_is_told_before_anything_is_run(file, name, told):
    with pytest.raises(UserError, match=told):
        names = [each.format(file=file) for each in name.split(",")]
        check_own(names)
        check(names)


@pytest.mark.usefixtures("without_a_fresh_process")
def test_a_run_is_decided_by_it_and_keeps_what_each_row_is_worth(file, tmp_path, caplog):
    asked = {**QUICK, "data.metrics": f"{file}:same_length,accuracy"}
    found = tunewise.train("tiny:sentiment", out=tmp_path / "run", overrides=asked)
    rows = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    expected = [100.0 * (len(row["predicted"]) == len(row["expected"])) for row in rows]
    assert [row["worth"] for row in rows] == expected
    assert found["test"] == {"same_length": pytest.approx(sum(expected) / 16), "accuracy": found["test"]["accuracy"]}
    again = tunewise.evaluate(tmp_path / "run")
    assert "same_length" not in again["metrics"], "code that a run folder names is not run"
    assert "code is not run" in caplog.text
    caplog.clear()
    again = tunewise.evaluate(tmp_path / "run", overrides={"data.metrics": [f"{file}:same_length"]})
    assert again["metrics"] == {"same_length": found["test"]["same_length"]}
    assert "code is not run" not in caplog.text, "it was named anew, and was run"
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


def test_items_of_one_that_tells_each_row_are_worth_that_and_of_others_right_or_wrong(file):
    def look(metric, worth):
        row = {"id": "a", "predicted": "x", "expected": "y", "correct": True} | worth
        task = SimpleNamespace(metrics=(metric,))
        return look_of(task, Evaluation({called(metric): 1.0}, [row])).items

    assert look(f"{file}:same_length", {"worth": 40.0}) == {"a": 40.0}
    assert look(f"{file}:same_length:lower", {"worth": 40.0}) == {"a": -40.0}
    assert look(f"{file}:letters_off", {}) == {"a": 100.0}


def test_a_folder_names_no_code(file):
    sources = {"a": {"path": "x.csv", "metrics": [f"{file}:f"]}, "b": {"path": "y.csv"}}
    fields = {"path": "", "metrics": [f"{file}:f", "bleu"], "mixture": {"sources": sources}}
    left = without(fields)
    assert left["metrics"] == ["bleu"]
    assert left["mixture"]["sources"] == {"a": {"path": "x.csv", "metrics": None}, "b": {"path": "y.csv"}}
    with pytest.raises(ValueError, match="no folder of data names"):
        TaskFile(name="a", kind="generation", prompt="{a}", answer="{b}", metrics=(f"{file}:f",))


def shares(predictions, references):
    return [0.5, 1.0][: len(references)]


def counts_off(predictions, references):
    return 1.0


def test_numbers_from_0_to_1_are_told_once(caplog):
    names = [spelled(each) for each in (shares, counts_off)]
    for _ in range(2):
        score((names[0], f"{names[1]}:lower"), Answers(predicted=("a", "b"), expected=("a", "b")))
    assert [record.getMessage() for record in caplog.records if "above 1" in record.getMessage()] == [
        "shares told nothing above 1: margins are points of 100, so return 100 where 1 would be perfect"
    ]


def test_a_program_that_begins_a_run_wherever_it_is_read_is_refused(tmp_path):
    """As a worker reads it, which has the metric by its file: it would compare all over again, and wait for itself."""
    program = tmp_path / "program.py"
    own = "def letters(predictions, references):\n    return float(len(predictions))\n"
    program.write_text(f"import tunewise\n\n{own}\ntunewise.compare('tiny:sentiment', workers=2)\n")
    with pytest.raises(UserError, match="begins a run while it is read for its metric") as refused:
        check_own([f"{program}:letters"])
    assert "__main__" in refused.value.hint
    program.write_text(own)
    check_own([f"{program}:letters"])
    build_recipe({"model": "tiny", "data": "tiny:sentiment", "method": "lora"})
