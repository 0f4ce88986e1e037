"""What is said, last of all, and the exit code where a proof failed: everywhere the same."""

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from tests.cli.command import tunewise
from tests.cli.conftest import make_base
from tunewise.training import proofs

QUICK = ("train.steps=3", "train.batch_size=4")
FAILED = "error: 1 proof failed: fold_equals_attached"


@pytest.fixture
def none_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    for dtype in proofs.FOLDED:
        monkeypatch.setitem(proofs.FOLDED, dtype, -1.0)


def last_lines(text: str) -> list[str]:
    return text.strip().splitlines()[-2:]


def test_a_run_is_kept_and_says_it(none_folds: None, base: Path, reviews: Path, tmp_path: Path) -> None:
    words = ("train", "--model", base, "--data", reviews, "--out", tmp_path / "run", *QUICK)
    found = tunewise(*words)
    assert (found.code, (tmp_path / "run" / "DONE").is_file()) == (4, True)
    assert "fold_equals_attached" in found.out
    assert last_lines(found.err)[0] == FAILED
    assert f"hint: the figures: tunewise adapter check {tmp_path / 'run'};" in last_lines(found.err)[1]
    again = tunewise(*words, "--json")
    assert (again.code, last_lines(again.err)[0]) == (4, FAILED), "a run that is there says the same"
    assert not json.loads(again.out)["proofs"]["fold_equals_attached"]["passed"]
    checked = tunewise("adapter", "check", tmp_path / "run", "--json")
    assert checked.code == 4
    assert last_lines(checked.err)[0] == f"{FAILED} of {tmp_path / 'run' / 'adapter'}"
    assert json.loads(checked.out)


def test_what_learnt_nothing_is_told_what_to_do(base: Path, reviews: Path, tmp_path: Path) -> None:
    small = "train.learning_rate=1e-30"
    found = tunewise("train", "--model", base, "--data", reviews, "--out", tmp_path / "run", *QUICK, small)
    assert (found.code, last_lines(found.err)[0]) == (4, "error: 1 proof failed: has_an_effect")
    assert "at a higher train.learning_rate" in last_lines(found.err)[1]
    checked = tunewise("adapter", "check", tmp_path / "run")
    assert checked.code == 4
    assert "at a higher train.learning_rate" in last_lines(checked.err)[1]


def test_a_comparison_says_of_which_ways(none_folds: None, base: Path, reviews: Path, tmp_path: Path) -> None:
    found = tunewise(
        "compare", "--model", base, "--data", reviews, "--out", tmp_path, "--methods", "frozen,lora", "--seeds", "0",
        *QUICK,
    )  # fmt: skip
    assert found.code == 4, found.err
    assert last_lines(found.err)[0] == f"{FAILED} of lora"
    assert json.loads((tmp_path / "comparison.json").read_text())["rows"][1]["failed_proofs"] == [
        "fold_equals_attached"
    ]
    assert (tmp_path / "report.html").is_file()


def test_so_do_the_verbs_that_compare_for_one_question(
    none_folds: None, base: Path, reviews: Path, tmp_path: Path
) -> None:
    one, few = (*QUICK, "data.test=8", "data.dev=8"), ("--seeds", "0")
    with_data = ("--model", base, "--data", reviews)
    texts = tmp_path / "texts.txt"
    texts.write_text("\n\n".join(f"the boat {i} was late" for i in range(8)), "utf-8")
    for words, whom in (
        (("remedies", *with_data, *few, *one, f"retention={texts}", "method.rank=1", "--points", "2"), "as it is"),
        (("dimension", *with_data, *few, *one, "--between", "4,4"), "d = 4"),
        (("compare", "--protocol", "icl-vs-ft", "--models", base, "--data", reviews, "--methods", "lora", *few,
          "train.steps=2", "data.test=8", "--shots", "2"), "fine-tuning on model"),
    ):  # fmt: skip
        found = tunewise(*words, "--out", tmp_path / words[0], "--json")
        assert found.out, found.err
        assert (found.code, last_lines(found.err)[0].endswith(f"fold_equals_attached of {whom}")) == (4, True), found


def test_a_merged_model_is_held_against_the_adapter(
    base: Path, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = tunewise("train", "--model", base, "--data", reviews, "--out", tmp_path / "run", *QUICK)
    assert trained.code == 0, trained.err
    found = tunewise("adapter", "merge", tmp_path / "run", "--out", tmp_path / "merged", "--json")
    assert found.code == 0, found.err
    proof = json.loads(found.out)["proofs"]["fold_equals_attached"]
    assert proof["passed"]
    assert 0 < proof["value"] < proof["tolerance"]
    other = AutoModelForCausalLM.from_pretrained(make_base(tmp_path / "other", seed=1))
    monkeypatch.setattr("tunewise.run.merge_adapter", lambda *_: other)
    wrong = tunewise("adapter", "merge", tmp_path / "run", "--out", tmp_path / "wrong")
    assert (wrong.code, last_lines(wrong.err)[0]) == (4, FAILED)
    assert (tmp_path / "wrong" / "config.json").is_file()
