"""Which runs are one arm, and what runs of several folders are together."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests.report.runs import write_runs
from tunewise.errors import UserError
from tunewise.report.arms import read_arms
from tunewise.report.shown import shown_in


def alone(root: Path, arm: str, seed: int, to: Path, **fields: object) -> None:
    """A copy of one run as `tunewise train --out` writes it, its recipe with other fields."""
    shutil.copytree(root / "tiny-sentiment" / arm / f"seed{seed}", to)
    recipe = yaml.safe_load((to / "recipe.yaml").read_text())
    (to / "recipe.yaml").write_text(yaml.safe_dump(recipe | fields))


@pytest.fixture
def root(tmp_path):
    return write_runs(tmp_path / "all")


def test_runs_beside_each_other_are_of_one_arm_only_where_their_recipes_are(root, tmp_path):
    alone(root, "lora-1c", 0, tmp_path / "runs" / "first")
    alone(root, "lora-1c", 1, tmp_path / "runs" / "again")
    alone(root, "bitfit-2d", 0, tmp_path / "runs" / "other")
    alone(root, "lora-1c", 0, tmp_path / "runs" / "faster", train={"learning_rate": 0.01, "steps": 3})
    arms = {arm.label: arm.seeds for arm in read_arms(tmp_path / "runs")}
    assert arms == {
        "lora": (0, 1),
        "bitfit": (0,),
        "lora (train.learning_rate=0.01, train.steps=3)": (0,),
    }


def test_several_folders_are_one_report_and_a_run_counts_once(root, tmp_path):
    alone(root, "lora-1c", 0, tmp_path / "a" / "run")
    alone(root, "lora-1c", 0, tmp_path / "b" / "copy")
    alone(root, "lora-1c", 2, tmp_path / "b" / "more")
    alone(root, "bitfit-2d", 0, tmp_path / "b" / "other")
    shown = shown_in([tmp_path / "a", tmp_path / "b"])
    assert [(arm.label, arm.seeds) for arm in shown.arms] == [("lora", (0, 2)), ("bitfit", (0,))]
    alone(root, "bitfit-2d", 0, tmp_path / "c" / "run", model="another")
    with pytest.raises(UserError, match="2 bases"):
        shown_in([tmp_path / "a", tmp_path / "c"])


def test_a_run_of_ones_own_joins_the_arm_of_a_comparison_that_has_its_recipe(root, tmp_path):
    arms = [{"label": "LoRA", "folder": "tiny-sentiment/lora-1c", "seeds": [0, 1]}]
    (root / "comparison.json").write_text(json.dumps({"arms": arms}))
    alone(root, "lora-1c", 1, tmp_path / "own" / "same")
    alone(root, "lora-1c", 2, tmp_path / "own" / "next")
    shown = shown_in([root, tmp_path / "own"])
    assert [(arm.label, arm.seeds) for arm in shown.arms] == [("LoRA", (0, 1, 2))]


def made_of(folder: Path, **environment: object) -> None:
    told = json.loads((folder / "env.json").read_text())
    (folder / "env.json").write_text(json.dumps(told | environment))


def test_runs_on_data_that_changed_between_them_are_no_seeds_of_one_arm(root, tmp_path):
    for seed in (0, 1, 2):
        alone(root, "lora-1c", seed, tmp_path / "runs" / f"{seed}")
        made_of(tmp_path / "runs" / f"{seed}", data_sha256="one", base={"fingerprint": "f"})
    assert [arm.seeds for arm in read_arms(tmp_path / "runs")] == [(0, 1, 2)]
    made_of(tmp_path / "runs" / "2", data_sha256="other")
    with pytest.raises(UserError, match=r"tiny:sentiment changed between the runs below .*runs/0 and .*runs/2 are of"):
        read_arms(tmp_path / "runs")


def test_of_runs_of_several_tasks_a_folder_of_one_is_named(root, tmp_path):
    alone(root, "lora-1c", 0, tmp_path / "runs" / "first")
    alone(root, "lora-1c", 1, tmp_path / "runs" / "second")
    metrics = tmp_path / "runs" / "second" / "metrics.json"
    metrics.write_text(json.dumps(json.loads(metrics.read_text()) | {"task": "another"}))
    with pytest.raises(UserError, match=r"of 2 tasks: .*\ngive a folder of one, such as .*runs/first$"):
        read_arms(tmp_path / "runs")


def test_runs_on_a_base_that_changed_between_them_are_not_compared(root, tmp_path):
    alone(root, "lora-1c", 0, tmp_path / "a" / "run")
    alone(root, "bitfit-2d", 0, tmp_path / "b" / "run")
    made_of(tmp_path / "a" / "run", base={"fingerprint": "f"})
    for base in ({"fingerprint": "f"}, {"fingerprint": "g", "quantise": "nf4"}, {}):
        made_of(tmp_path / "b" / "run", base=base)
        assert len(shown_in([tmp_path / "a", tmp_path / "b"]).arms) == 2
    made_of(tmp_path / "b" / "run", base={"fingerprint": "g"})
    with pytest.raises(UserError, match="tiny changed between the runs of"):
        shown_in([tmp_path / "a", tmp_path / "b"])


def test_an_arm_that_two_comparisons_call_differently_is_there_once(root, tmp_path):
    arms = [{"label": "LoRA", "folder": "tiny-sentiment/lora-1c", "seeds": [0, 1]}]
    (root / "comparison.json").write_text(json.dumps({"arms": arms}))
    other = write_runs(tmp_path / "other")
    arms = [{"label": "rank 8", "folder": "tiny-sentiment/lora-1c", "seeds": [2]}]
    (other / "comparison.json").write_text(json.dumps({"arms": arms}))
    assert [(arm.label, arm.seeds) for arm in shown_in([root, other]).arms] == [("LoRA", (0, 1, 2))]


def test_arms_that_were_not_asked_the_same_rows_are_told(root, tmp_path):
    alone(root, "lora-1c", 0, tmp_path / "runs" / "a")
    alone(root, "bitfit-2d", 0, tmp_path / "runs" / "b")
    assert shown_in([tmp_path / "runs"]).how.unlike == ()
    alone(root, "bitfit-2d", 0, tmp_path / "runs" / "c", data={"path": "tiny:sentiment", "test": 3})
    asked = tmp_path / "runs" / "c" / "predictions.jsonl"
    asked.write_text("".join(asked.read_text().splitlines(keepends=True)[:3]))
    (sentence,) = shown_in([tmp_path / "runs"]).how.unlike
    assert sentence.startswith("Not asked the same test rows: lora 4 rows of tiny:sentiment, ")
    assert "3 rows of tiny:sentiment" in sentence


def test_runs_that_were_scored_by_nothing_in_common_are_refused(root, tmp_path):
    alone(root, "lora-1c", 0, tmp_path / "runs" / "a")
    alone(root, "bitfit-2d", 0, tmp_path / "runs" / "b")
    told = json.loads((tmp_path / "runs" / "b" / "metrics.json").read_text())
    (tmp_path / "runs" / "b" / "metrics.json").write_text(json.dumps(told | {"test": {"mcc": 80.0}}))
    with pytest.raises(UserError, match="no metric of test in common"):
        read_arms(tmp_path / "runs")


def test_one_label_for_unlike_arms_names_neither(root, tmp_path):
    arms = [{"label": "mine", "folder": "tiny-sentiment/lora-1c", "seeds": [0, 1]}]
    (root / "comparison.json").write_text(json.dumps({"arms": arms}))
    other = write_runs(tmp_path / "other")
    arms = [{"label": "mine", "folder": "tiny-sentiment/bitfit-2d", "seeds": [0, 1]}]
    (other / "comparison.json").write_text(json.dumps({"arms": arms}))
    assert [(arm.label, arm.seeds) for arm in shown_in([root, other]).arms] == [("lora", (0, 1)), ("bitfit", (0, 1))]


@pytest.mark.parametrize("content", ['{"arms": 5}', "[]", '{"arms": [{"label": "a"}]}', '{"arms": ["a"]}'])
def test_a_comparison_that_names_no_arms_is_damaged(content, tmp_path):
    (tmp_path / "comparison.json").write_text(content)
    with pytest.raises(UserError, match=r"comparison\.json is damaged"):
        shown_in([tmp_path])
