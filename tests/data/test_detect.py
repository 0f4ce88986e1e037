"""What columns are taken for, where they hold what a row cannot be told by."""

import pytest

from tunewise.data.config import DataConfig
from tunewise.data.load import load_task
from tunewise.errors import UserError
from tunewise.files import write_jsonl

LISTS = {"names": ["spam", "long"], "zeros and ones": [1, 0, 1]}


@pytest.mark.parametrize("labels", LISTS.values(), ids=LISTS)
def test_several_labels_of_a_row_are_no_class_of_their_own(labels, tmp_path):
    rows = [{"text": f"row {i}", "labels": labels if i % 3 else labels[:1]} for i in range(30)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    with pytest.raises(UserError, match="line 2: labels holds several labels") as error:
        load_task(DataConfig(path=str(tmp_path / "rows.jsonl")))
    assert "data.label=COLUMN" in error.value.hint


def test_a_list_of_one_label_is_that_label(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [{"text": f"row {i}", "labels": ["ab"[i % 2]]} for i in range(30)])
    assert load_task(DataConfig(path=str(tmp_path / "rows.jsonl"))).labels == ("a", "b")
