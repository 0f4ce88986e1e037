"""Rows that a program holds: what is kept of them, and that they train as their file would."""

import json
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import torch
from pyarrow import Table
from pyarrow.parquet import write_table

from tunewise.data.hub import parquet_rows, saved_splits
from tunewise.data.in_memory import data_fields
from tunewise.data.readers import read_rows
from tunewise.errors import UserError
from tunewise.run import build_recipe

ROWS = [{"text": f"a {word} boat {i}", "label": word, "n": i} for i in range(6) for word in ("good", "bad")]

ROWS_UNTOLD = {"text": "boat 9", "label": -1}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWISE_CACHE", str(tmp_path / "cache"))


def rows_at(path):
    return [json.loads(line) for line in open(path, encoding="utf-8")]


def test_rows_are_a_file_and_the_same_rows_the_same_one():
    first = data_fields(ROWS)["path"]
    assert rows_at(first) == ROWS
    assert data_fields(dict(row) for row in ROWS)["path"] == first
    assert data_fields(ROWS[:-1])["path"] != first
    assert data_fields("reviews.csv") == data_fields(Path("reviews.csv")) == {"path": "reviews.csv"}


def test_splits_are_a_folder_with_a_file_each():
    fields = data_fields({"train": ROWS[:8], "validation": ROWS[8:10], "test": ROWS[10:]})
    recipe = build_recipe({"data": fields, "method": "lora"})
    from tunewise.data.load import load_task

    task = load_task(recipe.data)
    assert [len(part) for part in (task.train, task.dev, task.test)] == [8, 2, 2]


def test_a_recipe_may_have_rows_for_a_path_and_fields_beside_them():
    recipe = build_recipe({"data": {"path": ROWS, "label": "label"}, "method": "lora"}, {"data.train": 4})
    assert (recipe.data.label, recipe.data.train) == ("label", 4)
    assert len(read_rows(recipe.data.path)) == len(ROWS)
    assert build_recipe({"data": ROWS, "method": "lora"}, {"data.train": 4}).data.path == recipe.data.path


def test_what_a_data_frame_has_for_nothing_is_nothing():
    (row,) = rows_at(data_fields([{"text": "a", "note": float("nan")}])["path"])
    assert row == {"text": "a", "note": None}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "there are no rows"),
        ({"train": ROWS, "test": []}, "there are no rows in test"),
        ([("a", "b")], "row 0 is a tuple"),
        ([{"text": object()}], "what JSON has not"),
        ([{1: "a", "1": "b"}], "two columns of one name"),
    ],
)
def test_what_is_no_row_is_told(data, message):
    with pytest.raises(UserError, match=message):
        data_fields(data)


def test_a_number_is_no_data():
    with pytest.raises(UserError, match=r"data\.path = 3"):
        build_recipe({"data": 3, "method": "lora"})


def test_a_data_set_of_datasets_is_rows():
    datasets = pytest.importorskip("datasets")
    assert data_fields(datasets.Dataset.from_list(ROWS)) == data_fields(ROWS)
    both = datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS[:8]), test=datasets.Dataset.from_list(ROWS[8:]))
    assert data_fields(both) == data_fields({"train": ROWS[:8], "test": ROWS[8:]})


def test_numbers_of_numpy_are_numbers_wherever_they_stand():
    rows = [{"text": np.str_("a"), "label": np.int64(1), "x": np.float32(0.5), "ok": np.bool_(True)}]
    rows[0] |= {"tags": np.array([0, 1]), "nested": {"n": [np.int8(3), float("nan")]}, "nothing": np.float64("nan")}
    (row,) = rows_at(data_fields(rows)["path"])
    assert row == {
        "text": "a", "label": 1, "x": 0.5, "ok": True, "tags": [0, 1], "nested": {"n": [3, None]}, "nothing": None,
    }  # fmt: skip


def test_what_has_no_truth_value_is_nothing_and_several_values_are_told():
    class NA:
        """As pandas has it: what is compared with it is it, and it is neither true nor false."""

        def __ne__(self, other):
            return self

        def __bool__(self):
            raise TypeError("boolean value of NA is ambiguous")

    assert rows_at(data_fields([{"text": "a", "note": NA()}])["path"]) == [{"text": "a", "note": None}]
    with pytest.raises(UserError, match="what JSON has not: Object of type Tensor"):
        data_fields([{"text": "a", "x": torch.zeros(2)}])


def test_rows_are_as_they_were_when_they_were_given():
    rows = [dict(row) for row in ROWS]
    path = data_fields(rows)["path"]
    rows[0]["text"] = "changed"
    assert rows_at(path) == ROWS
    assert data_fields(rows)["path"] != path


def test_classes_of_a_data_set_are_told_by_their_names():
    datasets = pytest.importorskip("datasets")
    plain = datasets.Dataset.from_list([{"text": f"boat {n}", "label": n % 2} for n in range(4)] + [ROWS_UNTOLD])
    data = plain.cast_column("label", datasets.ClassLabel(names=["wet", "dry"]))
    told = [row["label"] for row in rows_at(data_fields(data)["path"])]
    assert told == ["wet", "dry", "wet", "dry", None]
    streamed = data_fields(data.to_iterable_dataset())
    assert streamed == data_fields(data)
    data.save_to_disk(str(streamed["path"]) + ".saved")
    saved = saved_splits(Path(str(streamed["path"]) + ".saved"))[""]
    assert [row.fields["label"] or None for row in saved] == told, "as from the disk"


def test_a_split_that_is_none_of_the_three_is_told():
    with pytest.raises(UserError, match="what unsupervised serves as is not known") as caught:
        data_fields({"train": ROWS, "test": ROWS, "unsupervised": ROWS})
    assert caught.value.hint == "give the others alone: {'train': data['train'], 'test': data['test']}"


def test_dates_and_decimal_numbers_are_text_as_those_of_a_file(tmp_path):
    row = {
        "at": datetime(2026, 1, 31, 12),
        "on": date(2026, 1, 31),
        "price": Decimal("1.50"),
        "for": timedelta(hours=1),
    }
    (kept,) = rows_at(data_fields([row])["path"])
    write_table(Table.from_pylist([row]), tmp_path / "rows.parquet")
    assert kept == parquet_rows(tmp_path / "rows.parquet")[0].fields
    assert kept == {"at": "2026-01-31 12:00:00", "on": "2026-01-31", "price": "1.50", "for": "1:00:00"}
