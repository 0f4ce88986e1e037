"""The rows that an evaluation asks where it asks only some."""

import json

import pytest

import tunewise
from tunewise.files import read_jsonl

KINDS = {"good": "the soup {} was good", "bad": "the boat {} was bad"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Rows sorted by class, three of the first for one of the other."""
    folder = tmp_path_factory.mktemp("sorted")
    for part, n in (("train", 4), ("test", 8)):
        rows = [{"text": KINDS["good"].format(i), "label": "good"} for i in range(3 * n)]
        rows += [{"text": KINDS["bad"].format(i), "label": "bad"} for i in range(n)]
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def asked(place, out, **how):
    found = tunewise.evaluate(model="tiny", data=str(place), out=out, **how)
    return found, [(row["id"], row["expected"]) for row in read_jsonl(out / "predictions.jsonl")]


def test_a_few_rows_are_those_that_the_task_takes_of_its_own(place, tmp_path):
    found, few = asked(place, tmp_path / "few", limit=8)
    assert (found["n_examples"], found["limit"]) == (8, 8)
    assert [label for _, label in few] == ["good"] * 6 + ["bad"] * 2
    assert few == asked(place, tmp_path / "task", overrides={"data.test": 8})[1]
    assert few != asked(place, tmp_path / "other", limit=8, overrides={"data.seed": 1})[1]
    assert len(asked(place, tmp_path / "more", limit=100)[1]) == 32


def test_of_all_rows_a_few_are_drawn_too(place, tmp_path):
    _, few = asked(place, tmp_path / "few", limit=12, split="all")
    assert [label for _, label in few].count("bad") == 3
    assert {one.split(":")[0] for one, _ in few} == {"train", "test"}
