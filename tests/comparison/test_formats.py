"""One comparison on one base in two formats: each is loaded once, proved on its own, and told apart in what is told."""

import json
import os
import signal
from importlib import import_module

import pytest

from tests.alike import alike
from tests.cli.command import tunewise
from tests.comparison.test_grid import Followed
from tests.small_base import QUICK, write_place
from tunewise.cli.recipes import arm_of
from tunewise.comparison import build_comparison, compare
from tunewise.comparison.plan import plan_comparison
from tunewise.methods.store import read_card
from tunewise.models.load import bytes_beside, load_base
from tunewise.models.quantise import packed_weights
from tunewise.run import base_of, build_recipe, plan, run
from tunewise.training.interrupt import Interrupted

ARMS = {
    "base": "frozen",
    "base in nf4": {"method": "frozen", "quantise": "nf4"},
    "LoRA": "lora",
    "QLoRA": {"method": "lora", "quantise": "nf4"},
}
FIELDS = QUICK | {"dtype": "float32", "data.train": 16}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return write_place(tmp_path_factory.mktemp("formats"))


def carry_out(place, out, arms=ARMS, **more):
    return compare(
        str(place / "reviews.csv"), model=str(place / "base"), methods=arms, seeds=(0, 1), out=out,
        overrides=FIELDS | more.pop("overrides", {}), **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def loaded():
    """The formats of all bases that are loaded, in their order."""
    return []


@pytest.fixture(scope="module")
def compared(place, loaded):
    """The comparison, with the reloads in fresh processes."""
    module = import_module("tunewise.run.prepare")
    load = module.load_base

    def counted(*given):
        loaded.append(given[-1])
        return load(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_base", counted)
        return carry_out(place, place / "runs")


def metrics_of(found, place, label, seed=0):
    (folder,) = (arm["folder"] for arm in found["arms"] if arm["label"] == label)
    return json.loads((place / "runs" / folder / f"seed{seed}" / "metrics.json").read_text())


def test_each_format_is_loaded_once_and_its_runs_share_batches(compared, place, loaded):
    assert loaded == ["", "nf4"]
    for label in ("LoRA", "QLoRA"):
        assert [metrics_of(compared, place, label, seed)["lanes"] for seed in (0, 1)] == [2, 2]


def test_every_arm_is_proved_on_its_own_format(compared, place):
    for label in ("LoRA", "QLoRA"):
        for seed in (0, 1):
            proofs = metrics_of(compared, place, label, seed)["proofs"]
            assert proofs["reloads_to_the_same_logits"]["passed"]
            assert all(proof["passed"] for proof in proofs.values())
    formats = {read_card(path)["base"]["quantise"] for path in (place / "runs").rglob("adapter")}
    assert formats == {"", "nf4"}


def test_an_arm_is_what_its_run_alone_would_be(compared, place, tmp_path):
    asked = build_recipe({"model": str(place / "base"), "data": str(place / "reviews.csv"), "method": "lora"}, FIELDS)
    alone = run(asked.model_copy(update={"quantise": "nf4", "seed": 1}), tmp_path, prove=False)
    beside = metrics_of(compared, place, "QLoRA", seed=1)
    assert alone["test"] == pytest.approx(beside["test"], abs=1e-3)
    assert alone["loss_last"] == pytest.approx(beside["loss_last"], abs=1e-4)
    assert alone["loss_last"] != pytest.approx(metrics_of(compared, place, "LoRA", seed=1)["loss_last"], abs=1e-4)


def test_rows_and_page_tell_the_format_and_what_it_saves(compared, place):
    rows = {row["arm"]: row for row in compared["rows"]}
    assert {label: row["quantise"] for label, row in rows.items()} == {
        "base": "", "base in nf4": "nf4", "LoRA": "", "QLoRA": "nf4",
    }  # fmt: skip
    assert rows["QLoRA"]["base_bytes"] < 0.6 * rows["LoRA"]["base_bytes"]
    assert compared["against"] == {"base in nf4": "base", "QLoRA": "LoRA"}
    told = tunewise("report", place / "runs")
    assert told.code == 0, told.err
    page = (place / "runs" / "report.html").read_text()
    assert "QLoRA − LoRA" in page
    assert "weights as stored" in page


def test_without_its_comparison_json_arms_are_named_by_their_format(compared, place, tmp_path):
    (tmp_path / "runs").symlink_to(place / "runs" / "reviews")
    told = tunewise("report", tmp_path / "runs", "--out", tmp_path / "page.html")
    assert told.code == 0, told.err
    page = (tmp_path / "page.html").read_text()
    assert "lora (quantise=nf4)" in page


@pytest.mark.usefixtures("without_a_fresh_process")
def test_it_goes_on_after_ctrl_c(compared, place, tmp_path):
    class Stopping(Followed):
        def begins(self, numbers):
            self.is_quantised = "QLoRA" in self.runs[numbers[0]].label
            return super().begins(numbers)

        def stepped(self, step, loss, n_tokens):
            if step == 3 and self.is_quantised:
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        carry_out(place, tmp_path, progress=Stopping())
    assert len(list(tmp_path.rglob("checkpoints/step-*"))) == 2
    again = carry_out(place, tmp_path)
    for row, other in zip(again["rows"], compared["rows"], strict=True):
        assert alike(row["test"], other["test"])
    resumed = [json.loads(path.read_text())["resumed_from"] for path in tmp_path.rglob("lora-*/seed*/metrics.json")]
    assert sorted(step > 0 for step in resumed) == [False, False, True, True]


def test_the_command_line_gives_an_arm_its_format():
    label, fields = arm_of("lora:rank=4:quantise=nf4:train.learning_rate=1e-3")
    assert label == "lora rank=4 quantise=nf4 train.learning_rate=1e-3"
    assert fields == {"method": {"name": "lora", "rank": 4}, "quantise": "nf4", "train.learning_rate": 1e-3}


def test_what_it_would_cost_is_rehearsed_on_both(place):
    fields = {"model": str(place / "base"), "data": str(place / "reviews.csv"), "arms": ARMS, "seeds": (0, 1)}
    told = plan_comparison(build_comparison(fields, FIELDS))
    assert [arm["refused"] for arm in told["arms"]] == [""] * 4
    assert told["n_together"] == 4


def test_of_int8_no_two_runs_share_a_batch(place):
    """LLM.int8() takes apart whole columns that hold an outlier of any row, so that lanes would not be as alone."""
    fields = {"model": str(place / "base"), "data": str(place / "reviews.csv"), "method": "lora", "quantise": "int8"}
    recipes = [build_recipe(fields | {"seed": seed}, FIELDS) for seed in (0, 1)]
    found = plan(recipes, base_of(recipes[0], {}))
    assert found.groups == ()
    assert "int8" in found.reasons[0]


def test_a_method_that_trains_packed_weights_is_refused_before_anything_runs(place, tmp_path):
    given = ("--model", place / "base", "--data", place / "reviews.csv", "--out", tmp_path, "train.steps=2")
    refused = tunewise("compare", "--methods", "frozen,full:quantise=nf4", *given)
    assert refused.code == 2
    assert "full trains" in refused.err
    assert not list(tmp_path.rglob("DONE"))


def test_the_other_base_is_no_memory_of_a_run(place):
    plain = load_base(str(place / "base"), "float32")
    before = bytes_beside(plain.model)
    packed = load_base(str(place / "base"), "float32", quantise="nf4")
    n_linear = sum(layer.in_features * layer.out_features for layer in packed_weights(packed.model).values())
    others = sum(p.numel() * 4 for n, p in packed.model.named_parameters() if p.dtype.is_floating_point)
    # arXiv:2305.14314, section 3: 4 bits, 8 for the constant of 64, 32 for that of 256 constants, and their mean
    of_constants = bytes_beside(plain.model) - before - n_linear // 2 - n_linear // 64 - others
    assert 0 < of_constants <= 8 * (2 * 8)
    del packed
