"""A quantised checkpoint, read by transformers and here, with the report of what it cost; and what is refused."""

import importlib.util
import io
import json

import pytest
import torch
from rich.console import Console
from scipy.special import log_softmax
from transformers import AutoModel, AutoModelForCausalLM

import tunewise as package
from tests.cli.command import tunewise
from tests.small_base import write_base, write_encoder, write_encoder_decoder, write_place_with_texts
from tunewise import files
from tunewise.errors import UserError
from tunewise.evaluation.retention import retention_loss
from tunewise.methods.store import load_adapter
from tunewise.models.heads import TaskHead
from tunewise.models.load import load_base
from tunewise.models.quantise import FORMATS, dequantised_weight
from tunewise.report.quantisation import headline, print_quantisation
from tunewise.run import build_recipe, evaluate, run, save_merged
from tunewise.run.adapters import merge_adapter

IDS = torch.tensor([[5, 9, 33, 20, 7, 41, 3]])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A base whose rows are whole blocks of 64, which bitsandbytes' own kernels multiply rightly on every machine."""
    place = tmp_path_factory.mktemp("place")
    write_place_with_texts(place, 30, 30)
    write_base(place / "wide", width=64)
    return place


@pytest.mark.parametrize("form", [*FORMATS, "nf4-ends8"])
def test_the_checkpoint_is_read_by_transformers_and_here_and_says_what_was_measured(place, form, tmp_path):
    found = package.quantize(
        str(place / "wide"), form, out=tmp_path / "stored", data=str(place / "texts.jsonl"), dtype="float32"
    )
    base, dense = load_base(str(place / "wide"), "float32", quantise=form), load_base(str(place / "wide"), "float32")
    again = load_base(str(tmp_path / "stored"), "float32")
    assert (again.quantise, again.fingerprint) == (form, base.fingerprint)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "stored")
    with torch.no_grad():
        wanted = base.model(IDS).logits
        assert torch.equal(again.model(IDS).logits, wanted)
        # in training mode, in which bitsandbytes leaves its weights as they are; there is no dropout
        found_there = (plain.eval() if form == "int8" else plain.train())(IDS).logits
    torch.testing.assert_close(found_there, wanted, rtol=0, atol=1e-4)
    texts = [row["text"] for row in files.read_jsonl(place / "texts.jsonl")]
    for side, each in (("before", dense), ("after", base)):
        loss, _ = retention_loss(each, texts)
        assert found["metrics"][side]["loss"] == pytest.approx(loss, abs=1e-5)
    assert found["measured_on"] == "30 of the 30 rows of texts"
    ids = [torch.tensor([dense.tokenizer(text)["input_ids"]]) for text in texts]
    with torch.no_grad():
        p, q = (
            [log_softmax(model(each).logits[0, :-1].double().numpy(), -1) for each in ids]
            for model in (dense.model, base.model)
        )
    told = sum(((2.718281828459045**a) * (a - b)).sum() for a, b in zip(p, q, strict=True))
    n_labels = sum(len(each) for each in p)
    assert found["changes"]["n_labels"] == n_labels
    assert found["changes"]["kl"] == pytest.approx(told / n_labels, rel=2e-3, abs=1e-8)
    card = json.loads((tmp_path / "stored" / "quantisation.json").read_text())
    assert card == {name: value for name, value in found.items() if name != "folder"} | {
        "weights": [each | {"shape": list(each["shape"])} for each in found["weights"]]
    }
    assert found["disk_bytes"] < found["bytes_before"]
    files.verify(tmp_path / "stored")


def test_without_rows_and_a_folder_only_the_weights_are_looked_at(place):
    found = package.quantize(str(place / "base"), "nf4")
    assert found["measured_on"] is found["metrics"] is found["changes"] is None
    assert "folder" not in found
    assert len(found["weights"]) == 14
    assert 0.08 < found["relative_error"] < 0.11
    lost = sum((each["relative"] * each["norm"]) ** 2 for each in found["weights"])
    whole = sum(each["norm"] ** 2 for each in found["weights"])
    assert found["relative_error"] == pytest.approx((lost / whole) ** 0.5)


def test_a_classifier_keeps_its_head_and_is_asked_for_its_classes(place, tmp_path, without_a_fresh_process):
    encoder, data = write_encoder(tmp_path / "encoder"), str(place / "reviews.csv")
    fields = {"model": str(encoder), "data": data, "dtype": "float32", "method": "lora", "quantise": "nf4"}
    metrics = run(build_recipe(fields, {"train.steps": 4}), tmp_path / "run")
    assert all(proof["passed"] for proof in metrics["proofs"].values() if proof)
    base = load_base(str(encoder), "float32", head=TaskHead("classes", ("0", "1")), quantise="nf4")
    merged = merge_adapter(base, tmp_path / "run" / "adapter", "original")
    save_merged(merged, base, tmp_path / "run" / "adapter", tmp_path / "merged")
    found = package.quantize(str(tmp_path / "merged"), "nf4", out=tmp_path / "stored", data=data, dtype="float32")
    assert "classifier" in found["kept_dense"]
    assert found["metric"] == "accuracy"
    assert found["changes"]["n_labels"] == 60
    assert found["changes"]["largest_change"] > 0
    told = evaluate(model=str(tmp_path / "stored"), data=data, split="all", overrides={"dtype": "float32"})
    assert told["metrics"] == pytest.approx(found["metrics"]["after"], abs=1e-4)
    others = tmp_path / "others.csv"
    others.write_text((place / "reviews.csv").read_text().replace(",1\n", ",yes\n").replace(",0\n", ",no\n"), "utf-8")
    with pytest.raises(UserError, match="tells 0, 1, and others asks for no, yes"):
        package.quantize(str(tmp_path / "merged"), "nf4", data=str(others))


def test_what_was_trained_on_the_checkpoint_is_merged_into_its_original(place, tmp_path, without_a_fresh_process):
    package.quantize(str(place / "base"), "nf4", out=tmp_path / "stored", dtype="float32")
    data = str(place / "reviews.csv")
    fields = {"model": str(tmp_path / "stored"), "data": data, "dtype": "float32", "method": "lora"}
    run(build_recipe(fields, {"train.steps": 4}), tmp_path / "run")
    stored, dense = load_base(str(tmp_path / "stored"), "float32"), load_base(str(place / "base"), "float32")
    merged = merge_adapter(stored, tmp_path / "run" / "adapter", "original")
    tuned = load_adapter(stored.model, tmp_path / "run" / "adapter")
    touched = {f"{tuned.site(name).module}.weight" for name in tuned.deltas}
    assert len(touched) == 4
    for name, parameter in dense.model.named_parameters():
        assert torch.equal(merged.get_parameter(name), parameter) == (name not in touched), name


def test_an_encoder_without_a_classifier_is_written_without_one(place, tmp_path):
    encoder = write_encoder(tmp_path / "encoder")
    found = package.quantize(
        str(encoder), "int8", out=tmp_path / "stored", data=str(place / "reviews.csv"), dtype="float32"
    )
    assert found["measured_on"] == "60 of the 60 rows of reviews, by a classifier that was drawn and not trained"
    model = AutoModel.from_pretrained(tmp_path / "stored").eval()
    assert not [name for name, _ in model.named_parameters() if "classifier" in name]
    base = load_base(str(tmp_path / "stored"), "float32", head=TaskHead("classes", ("no", "yes")))
    assert base.quantise == "int8"
    assert base.new_parameters == ("classifier.weight", "classifier.bias")
    again = load_base(str(encoder), "float32", head=TaskHead("classes", ("no", "yes")), quantise="int8")
    with torch.no_grad():
        assert torch.equal(base.model(IDS).logits, again.model(IDS).logits)


def test_an_encoder_decoder_is_measured_where_it_writes(place, tmp_path):
    found = package.quantize(
        str(write_encoder_decoder(tmp_path / "base")), "nf4", data=str(place / "counts.jsonl"), limit=8
    )
    assert found["measured_on"] == "8 of the 30 rows of counts"
    assert found["changes"]["n_labels"] > 8
    assert {each["role"] for each in found["weights"]} >= {"q", "cross_q", "up"}
    console = Console(file=io.StringIO(), width=80)
    print_quantisation(console, found)
    assert "cross_o" in console.file.getvalue()


def test_the_command_shows_writes_and_draws_what_it_found(place, tmp_path):
    words = ["quantize", place / "base", "--data", place / "texts.jsonl", "--limit", "9"]
    shown = tunewise(*words, "--format", "fp4")
    assert shown.code == 0, shown.err
    for told in ("in fp4", "down", "perplexity", "9 of the 30 rows of texts", "KL(original ‖ quantised)"):
        assert told in shown.out
    assert max(map(len, shown.out.splitlines())) <= 80
    assert "--out FOLDER" in shown.err
    written = tunewise(*words, "--out", tmp_path / "stored", "--json")
    assert written.code == 0, written.err
    found = json.loads(written.out)
    assert found["folder"] == str(tmp_path / "stored")
    page = (tmp_path / "stored" / "quantisation.html").read_text()
    for told in ("base in nf4", "model.layers.1.mlp.down_proj", "<svg", "perplexity", "tunewise"):
        assert told in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert page.count("<tr>") >= len(found["weights"])
    again = tunewise("quantize", tmp_path / "stored")
    assert again.code == 2
    assert "is quantised already, in nf4" in again.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--format", "nf5"], "did you mean 'nf4'"),
        (["--out", "full"], "full is not empty"),
        (["--out", "file"], "file: it is a file"),
        (["--data", "nowhere.csv"], "nowhere.csv"),
        (["--dtype", "float64"], "not in float64"),
    ],
)
def test_bad_words_are_refused_before_anything_is_read(place, words, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    for name in ("full/mine.txt", "file"):
        (tmp_path / name).write_text("mine", "utf-8")
    found = tunewise("quantize", place / "base", *words)
    assert found.code == 2
    assert told in found.err
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"


def test_what_is_there_without_bitsandbytes(place, tmp_path, monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else there(name))
    with pytest.raises(UserError, match="quantise=int8 needs bitsandbytes") as caught:
        package.quantize(str(place / "base"), format="int8")
    assert "tunewise[quant]" in caught.value.hint
    found = package.quantize(str(place / "base"), format="nf4", out=tmp_path / "nf4", dtype="float32")
    assert 0.05 < found["relative_error"] < 0.15
    monkeypatch.undo()
    read = load_base(str(tmp_path / "nf4"), "float32")  # by bitsandbytes
    assert read.quantise == "nf4"
    told = {each["module"]: each["norm"] * each["relative"] for each in found["weights"]}
    dense = load_base(str(place / "base"), "float32")
    for name, error in told.items():
        weight = dense.model.get_submodule(name).weight.detach().float()
        lost = weight - dequantised_weight(read.model.get_submodule(name)).float()
        assert float(lost.norm()) == pytest.approx(error, rel=1e-3)


def test_of_many_layers_those_that_lost_most_are_shown():
    weights = [
        {"module": f"l.{i}.{role}", "layer": i, "role": role, "relative": 0.09 + i / 1000, "largest": 0.1, "norm": 1.0,
         "bytes_before": 100, "bytes_after": 40}
        for i in range(20) for role in ("q", "down")
    ]  # fmt: skip
    found = {
        "model": "big", "format": "nf4", "dtype": "bfloat16", "relative_error": 0.1, "weights": weights,
        "bytes_before": 4000, "bytes_after": 1600, "kept_dense": {}, "measured_on": None, "metrics": None,
        "changes": None,
    }  # fmt: skip
    console = Console(file=io.StringIO(), width=80)
    print_quantisation(console, found)
    told = console.file.getvalue()
    assert headline(found) == "big in nf4: 10 over all 40 weights"
    assert "the 16 of 20 layers that lost most" in told
    assert "\n19    10.90 10.90\n" in told
    assert "\n3 " not in told
    assert "nothing was measured" in told
