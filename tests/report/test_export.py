"""The csv of a comparison, read back."""

import csv
from pathlib import Path

import pytest

from tests.report.runs import ARMS, write_runs
from tunewise.errors import UserError
from tunewise.report.arms import DivergedArm, read_arms
from tunewise.report.decision import decide
from tunewise.report.export import table_of, write_csv


def test_one_row_an_arm_with_every_figure(tmp_path: Path) -> None:
    arms = read_arms(write_runs(tmp_path))
    lost = DivergedArm("too hot", 3, 3, "not finite")
    rows = table_of(arms, decide(arms), [lost])
    with write_csv(tmp_path / "table.csv", rows).open(newline="") as stream:
        found = list(csv.DictReader(stream))
    assert len(found) == len(ARMS) + 1
    by_arm = {row["arm"]: row for row in found}
    lora = by_arm["lora"]
    assert float(lora["accuracy"]) == 90.2
    assert abs(float(lora["accuracy_half_width"]) - 4.302653 * 0.6 / 3**0.5) < 1e-5
    assert (lora["seeds"], lora["n_trainable"], lora["taken"], lora["standing"]) == ("0 1 2", "49152", "True", "equal")
    assert by_arm["full"]["standing"] == "best"
    assert by_arm["prompt_tuning"]["standing"] == "open"
    assert by_arm["frozen (shots=0)"]["forgetting"] == ""
    assert (by_arm["too hot"]["standing"], by_arm["too hot"]["accuracy"]) == ("3 of 3 seeds diverged", "")


def test_of_one_seed_no_interval_is_known(tmp_path: Path) -> None:
    arms = read_arms(write_runs(tmp_path, seeds=(0,)))
    row = table_of(arms, decide(arms))[2]
    assert row["accuracy_half_width"] is None
    assert row["forgetting_half_width"] is None


def test_a_spreadsheet_is_not_written_by_its_name_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--csv .*table\.csv"):
        write_csv(tmp_path / "table.xlsx", [{"arm": "lora"}])
    assert not [*tmp_path.iterdir()]
