"""A classifier that was trained on some classes is asked about those alone, whichever of them a file holds."""

import pytest

from tests.small_base import QUICK, write_encoder
from tunewise.errors import UserError
from tunewise.files import write_jsonl
from tunewise.run import evaluate, train

COLOURS = ("amber", "blue", "crimson")


def rows_of(names, n=30):
    return [{"text": f"row {i} is {names[i % len(names)]}", "label": names[i % len(names)]} for i in range(n)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classes")
    base = write_encoder(folder / "base")
    write_jsonl(folder / "three.jsonl", rows_of(COLOURS))
    write_jsonl(folder / "two.jsonl", rows_of(COLOURS[1:]))
    write_jsonl(folder / "others.jsonl", rows_of(("ash", "birch", "cedar")))
    write_jsonl(folder / "values.jsonl", [{"text": f"row {i}", "label": i + 0.5} for i in range(30)])
    said = {**QUICK, "train.learning_rate": 3e-2, "train.steps": 12, "retention": None}
    train(folder / "three.jsonl", model=str(base), method="lora", out=folder / "run", overrides=said)
    return folder


def test_a_file_with_some_of_the_classes_is_asked_by_all_of_them(place, without_a_fresh_process):
    whole = evaluate(place / "run", data=str(place / "three.jsonl"), split="all", out=place / "whole")
    some = evaluate(place / "run", data=str(place / "two.jsonl"), split="all", out=place / "some")
    assert whole["n_examples"] == some["n_examples"] == 30
    told = (place / "some" / "predictions.jsonl").read_text()
    assert '"amber"' in told and '"crimson"' in told  # a score for each class that the classifier tells


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("others", "tells the classes amber, blue, crimson, and others has ash, birch, cedar"),
        ("values", "answers with classes, and values wants a number"),
    ],
)
def test_other_classes_are_refused_and_not_taken_by_their_numbers(name, message, place):
    with pytest.raises(UserError, match=message):
        evaluate(place / "run", data=str(place / f"{name}.jsonl"), split="all")


def test_training_does_not_go_on_with_other_classes(place, tmp_path):
    with pytest.raises(UserError, match="tells the classes amber, blue, crimson"):
        train(
            place / "others.jsonl", out=tmp_path / "on",
            overrides={**QUICK, "adapter": str(place / "run"), "retention": None},
        )  # fmt: skip
