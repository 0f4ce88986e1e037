"""The three ways on for an adapter of a quantised base: what is measured, what is refused, and what is written."""

import io
import json

import pytest
import torch
from rich.console import Console

from tests.cli.command import tunewise
from tests.conftest import leave_out_fresh_processes
from tests.small_base import QUICK, write_place
from tunewise.errors import UserError
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.methods.store import load_adapter, save_adapter
from tunewise.models.load import load_base
from tunewise.report.routes import print_routes
from tunewise.run import build_recipe, evaluate, merge_by, run, weigh_routes
from tunewise.training.proofs import checksums

FIGURES = {"n_labels", "largest_change", "mean_change", "kl", "agreement", "answers_changed"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A base, reviews, and a run of QLoRA on them that answers otherwise than its base."""
    place = write_place(tmp_path_factory.mktemp("place"))
    fields = {"model": str(place / "base"), "data": str(place / "reviews.csv"), "dtype": "float32", "quantise": "nf4"}
    with pytest.MonkeyPatch.context() as patch:  # the reload in a fresh process is tested elsewhere
        leave_out_fresh_processes(patch)
        run(build_recipe({**fields, "method": {"name": "lora", "rank": 4}}, QUICK | {"train.steps": 12}), place / "run")
    return place


def base_of(place, form="nf4"):
    return load_base(str(place / "base"), "float32", quantise=form)


def adapter_of(place, folder, method, noise=0.1):
    """An adapter that no run made, and that knows no task."""
    base = base_of(place)
    tuned, generator = attach(base.model, parse_method(method)), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in tuned.trainable.values():
            parameter.add_(noise * torch.randn(parameter.shape, generator=generator))
    save_adapter(tuned, folder, tokenizer=base.tokenizer, base_name=base.name, base_fingerprint=base.fingerprint)
    tuned.detach()
    return base


def test_every_route_is_measured_and_the_base_stays_as_it_was(place):
    base = base_of(place)
    before = checksums(base.model)
    found = weigh_routes(base, place / "run")
    assert checksums(base.model) == before
    assert not any(module._forward_hooks for module in base.model.modules())
    assert list(found["routes"]) == ["attached", "dequantised", "original"]
    assert found["measured_on"] == "6 of the 6 dev rows of reviews"
    for told in (found["without_adapter"], *found["routes"].values()):
        assert told.keys() >= FIGURES
    attached = found["routes"]["attached"]
    assert [attached[name] for name in ("largest_change", "kl", "agreement", "answers_changed")] == [0, 0, 1, 0]
    metrics = evaluate(place / "run", split="dev")["metrics"]
    assert attached["metrics"] == pytest.approx(metrics)
    merged = load_adapter(base.model, place / "run" / "adapter")
    assert attached["memory_bytes"] - found["without_adapter"]["memory_bytes"] == 4 * merged.n_trainable
    assert attached["memory_bytes"] < found["routes"]["dequantised"]["memory_bytes"]


def test_others_rows_are_measured_on_when_they_are_given(place, tmp_path):
    rows = [f"the boat {i} was {'good' if i % 2 else 'bad'},{i % 2}" for i in range(40)]
    (tmp_path / "boats.csv").write_text("text,label\n" + "\n".join(rows) + "\n", "utf-8")
    found = weigh_routes(base_of(place), place / "run", data=str(tmp_path / "boats.csv"), limit=3, routes=["attached"])
    assert found["measured_on"] == "3 of the 4 dev rows of boats"
    assert list(found["routes"]) == ["attached"]


def test_without_a_task_it_is_measured_on_what_it_writes(place, tmp_path, caplog):
    base = adapter_of(place, tmp_path / "adapter", {"name": "lora", "rank": 2})
    found = weigh_routes(base, tmp_path / "adapter", routes=["original"])
    assert "texts that it wrote itself" in found["measured_on"]
    assert found["metric"] is None
    told = found["routes"]["original"]
    assert told["metrics"] is told["answers_changed"] is None
    assert told["n_labels"] > 100
    assert 0 < told["kl"] < found["without_adapter"]["kl"]


def test_a_route_that_cannot_be_taken_says_why(place, tmp_path):
    base = adapter_of(place, tmp_path / "prompt", {"name": "prompt_tuning", "virtual_tokens": 3})
    data = str(place / "reviews.csv")
    found = weigh_routes(base, tmp_path / "prompt", data=data)
    assert found["routes"]["attached"]["kl"] == 0
    assert found["without_adapter"]["kl"] > 0
    for route in ("dequantised", "original"):
        assert found["routes"][route].keys() == {"impossible"}
        with pytest.raises(UserError):
            merge_by(base, tmp_path / "prompt", route, tmp_path / "out", data=data)
    assert not (tmp_path / "out").exists()
    console = Console(file=io.StringIO(), width=80)
    print_routes(console, found)
    assert console.file.getvalue().count("not possible") == 2


def test_a_checkpoint_that_came_quantised_has_no_original(place, tmp_path):
    base = base_of(place)
    base.model.save_pretrained(tmp_path / "stored")
    base.tokenizer.save_pretrained(tmp_path / "stored")
    stored = load_base(str(tmp_path / "stored"), "float32")
    found = weigh_routes(stored, place / "run", data=str(place / "reviews.csv"))
    assert "came quantised" in found["routes"]["original"]["impossible"]
    assert found["routes"]["dequantised"]["largest_change"] < 1e-3


def test_the_command_measures_and_refuses_until_it_is_told(place, tmp_path):
    found = tunewise("adapter", "merge", place / "run", "--limit", "4")
    assert found.code == 2
    assert "is quantised (nf4): nothing was merged" in found.err
    for told in ("--route dequantised --out FOLDER", "--route original --out FOLDER", "load_adapter", "accuracy"):
        assert told in found.out
    assert max(map(len, found.out.splitlines()[:13])) <= 80
    as_json = tunewise("adapter", "merge", place / "run", "--json")
    assert as_json.code == 2
    assert json.loads(as_json.out)["routes"].keys() == {"attached", "dequantised", "original"}
    merged = tunewise("adapter", "merge", place / "run", "--route", "original", "--out", tmp_path / "merged", "--json")
    assert merged.code == 0, merged.err
    card = json.loads((tmp_path / "merged" / "merge.json").read_text())
    told = json.loads(merged.out)
    assert told.pop("folder") == str(tmp_path / "merged")
    assert card.pop("versions").keys() == {"tunewise", "torch", "transformers"}
    assert card == told
    assert card["route"] == "original"
    attached = tunewise("adapter", "merge", place / "run", "--route", "attached")
    assert attached.code == 0, attached.err
    assert "load_adapter" in attached.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--route", "original"], "needs a folder"),
        (["--route", "attached", "--out", "no"], "nothing to write"),
        (["--route", "orignal", "--out", "no"], "did you mean 'original'"),
        (["--route", "original", "--out", "no", "--data", "nowhere.csv"], "nowhere.csv"),
    ],
)
def test_bad_words_are_refused(place, words, told):
    found = tunewise("adapter", "merge", place / "run", *words)
    assert found.code == 2
    assert told in found.err


def test_a_dense_base_has_no_routes_and_says_what_was_merged(place, tmp_path, without_a_fresh_process):
    fields = {"model": str(place / "base"), "data": str(place / "reviews.csv"), "dtype": "float32", "method": "lora"}
    run(build_recipe(fields, QUICK), tmp_path / "plain")
    refused = tunewise("adapter", "merge", tmp_path / "plain", "--route", "original", "--out", tmp_path / "no")
    assert refused.code == 2
    assert "is not quantised" in refused.err
    found = tunewise("adapter", "merge", tmp_path / "plain", "--out", tmp_path / "merged")
    assert found.code == 0, found.err
    assert json.loads((tmp_path / "merged" / "merge.json").read_text())["base"] == str(place / "base")
