"""Whole runs on a quantised base: proved, evaluated again, checked and merged."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.cli.command import tunewise
from tests.small_base import QUICK, write_place
from tunewise.comparison import compare
from tunewise.errors import UserError
from tunewise.methods.base import CannotFold
from tunewise.methods.store import load_adapter, read_card
from tunewise.models.load import load_base
from tunewise.run import build_recipe, evaluate, merge_adapter, prove_adapter, run
from tunewise.training.proofs import checksums

IDS = torch.tensor([[5, 9, 33, 20, 7, 41, 3]])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return write_place(tmp_path_factory.mktemp("place"))


def recipe(place, form="nf4", **fields):
    given = {"model": str(place / "base"), "data": str(place / "reviews.csv"), "dtype": "float32", "quantise": form}
    return build_recipe(given | {"method": {"name": "lora", "rank": 4}} | fields, QUICK)


@pytest.fixture(scope="module")
def finished(place):
    """One whole run, reload in a fresh process included."""
    return place / "finished", run(recipe(place), place / "finished")


def test_a_run_passes_its_proofs_and_says_why_it_does_not_fold(finished):
    out, metrics = finished
    assert metrics["proofs"].keys() >= {
        "reloads_to_the_same_logits",
        "has_an_effect",
        "off_is_the_base",
        "base_unchanged",
    }
    assert all(proof["passed"] for proof in metrics["proofs"].values())
    assert metrics["proofs"]["reloads_to_the_same_logits"]["value"] == 0
    assert "is quantised" in metrics["proofs_left_out"]["fold_equals_attached"]
    assert read_card(out / "adapter")["base"]["quantise"] == "nf4"
    assert json.loads((out / "env.json").read_text())["base"]["quantise"] == "nf4"


@pytest.mark.usefixtures("reloads_in_this_process")
@pytest.mark.parametrize("form", ["fp4", "int8"])
def test_the_other_formats_do_as_well(place, form):
    metrics = run(recipe(place, form), place / form)
    assert metrics["proofs"]["reloads_to_the_same_logits"]["passed"]
    assert all(proof["passed"] for proof in metrics["proofs"].values())


def test_it_is_evaluated_again_on_the_same_base(finished):
    out, metrics = finished
    for target in (out, out / "adapter"):
        found = evaluate(target)["metrics"]
        assert found == pytest.approx({name: metrics["test"][name] for name in found}, abs=1e-6)


def test_a_bare_base_is_evaluated_in_four_bits(place):
    asked = recipe(place, method="frozen")
    measured = run(asked, place / "bare")["test"]
    overrides = {"dtype": "float32", "quantise": "nf4"}
    bare = evaluate(model=asked.model, data=asked.data.path, overrides=overrides, out=place / "bare again")
    assert bare["metrics"] == measured
    evaluate(model=asked.model, data=asked.data.path, overrides={"dtype": "float32"}, out=place / "whole")
    texts = [(place / folder / "predictions.jsonl").read_text() for folder in ("bare", "bare again", "whole")]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.usefixtures("reloads_in_this_process")
def test_a_fisher_mask_and_loftq_start_from_what_the_base_tells(place, tmp_path):
    for number, method in enumerate([{"name": "sparse", "examples": 4}, {"name": "lora", "init": "loftq"}]):
        metrics = run(recipe(place, method=method), tmp_path / str(number))
        assert all(proof["passed"] for proof in metrics["proofs"].values())


@pytest.mark.usefixtures("reloads_in_this_process")
def test_a_run_begins_with_what_its_base_was_quantised_around(place, tmp_path):
    made = tunewise(
        "adapter", "start", place / "base", "--out", tmp_path / "made", "--method", "lora:rank=4:roles=[all]"
    )
    assert made.code == 0, made.err
    assert "--method lora method.rank=4 'method.roles=[all]' method.init=stored" in made.out
    method = {"name": "lora", "rank": 4, "roles": ["all"], "init": "stored"}
    metrics = run(recipe(place, "", model=str(tmp_path / "made"), method=method), tmp_path / "run")
    assert all(proof["passed"] for proof in metrics["proofs"].values())
    assert metrics["proofs"]["reloads_to_the_same_logits"]["value"] == 0
    assert read_card(tmp_path / "run" / "adapter")["base"]["quantise"] == "nf4"


def test_an_adapter_is_merged_into_dense_weights_of_either_kind(finished, place):
    base = load_base(str(place / "base"), "float32", quantise="nf4")
    before, adapter = checksums(base.model), finished[0] / "adapter"
    tuned = load_adapter(base.model, adapter)
    with torch.no_grad():
        attached, changes = tuned.model(IDS).logits, {n: d.product().detach() for n, d in tuned.deltas.items()}
    tuned.detach()
    with pytest.raises(CannotFold, match="is quantised"):
        merge_adapter(base, adapter)
    with torch.no_grad():
        logits = merge_adapter(base, adapter, "dequantised")(IDS).logits
    torch.testing.assert_close(logits, attached, rtol=0, atol=1e-4)
    plain, merged = load_base(str(place / "base"), "float32"), merge_adapter(base, adapter, "original")
    for name, parameter in plain.model.named_parameters():
        site = next((s for s in plain.anatomy.sites if f"{s.module}.weight" == name and s.name in changes), None)
        wanted = parameter if site is None else parameter + changes[site.name]
        torch.testing.assert_close(merged.get_parameter(name), wanted, rtol=0, atol=1e-6)
    assert len(changes) == 4
    assert checksums(base.model) == before
    with pytest.raises(UserError, match="fingerprint"):
        merge_adapter(plain, adapter, "original")


def test_the_commands_take_it_on(finished, tmp_path):
    out = finished[0]
    checked = tunewise("adapter", "check", out)
    assert checked.code == 0, checked.err
    for route in ("dequantised", "original"):
        found = tunewise("adapter", "merge", out, "--route", route, "--out", tmp_path / route)
        assert found.code == 0, found.err
        model = AutoModelForCausalLM.from_pretrained(tmp_path / route)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    wrong = tunewise("adapter", "merge", out, "--route", "orignal", "--out", tmp_path / "no")
    assert wrong.code == 2
    assert "original" in wrong.err


def test_an_adapter_of_a_quantised_base_is_proved_at_any_time(finished, place):
    base = load_base(str(place / "base"), "float32", quantise="nf4")
    assert all(proof["passed"] for proof in prove_adapter(finished[0] / "adapter", base).values())


@pytest.mark.usefixtures("reloads_in_this_process")
def test_arms_are_compared_on_one_quantised_base(place, tmp_path):
    found = compare(
        {"path": str(place / "reviews.csv"), "train": 16}, model=str(place / "base"), methods=["frozen", "lora"],
        seeds=(0,), out=tmp_path, overrides=QUICK | {"quantise": "nf4", "dtype": "float32"},
    )  # fmt: skip
    assert len(found["rows"]) == 2
    (adapter,) = tmp_path.rglob("adapter")
    assert read_card(adapter)["base"]["quantise"] == "nf4"
