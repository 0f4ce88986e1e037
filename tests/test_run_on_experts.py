"""Runs on a small mixture of experts: trained, proved, compared and served as on a dense base."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests import bases
from tests.bytes_tokenizer import VOCABULARY, bytes_tokenizer
from tests.cli.command import tunewise
from tests.small_base import write_reviews
from tunewise.engine.native.build import library


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    fields = {**bases.MIXTURES["mixtral"], "vocab_size": VOCABULARY, "max_position_embeddings": 96}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = AutoConfig.for_model("mixtral", **fields, initializer_range=0.1)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder / "base")
    bytes_tokenizer().save_pretrained(folder / "base")
    write_reviews(folder / "reviews.csv")
    return folder


def asked(place):
    return (
        "--model",
        place / "base",
        "--data",
        place / "reviews.csv",
        "train.steps=2",
        "train.batch_size=4",
        "dtype=float32",
    )


@pytest.mark.usefixtures("reloads_in_this_process")
def test_two_arms_are_trained_and_compared_and_every_proof_passes(place, tmp_path):
    arms = ("--methods", "lora,lora:roles=experts", "--seeds", "1")
    found = tunewise("compare", *asked(place), *arms, "--out", tmp_path / "runs")
    assert found.code == 0, found.err
    runs = {path.parent: json.loads(path.read_text()) for path in (tmp_path / "runs").rglob("metrics.json")}
    assert len(runs) == 2
    for metrics in runs.values():
        assert len(metrics["proofs"]) >= 12
        assert all(proof["passed"] for proof in metrics["proofs"].values()), metrics["proofs"]
        assert metrics["proofs_left_out"] == {}
        assert metrics["layout"] == ("packed" if library() else "padded")
        assert metrics["lanes"] == 1
    run = max(runs, key=lambda folder: runs[folder]["n_trainable"])
    config = json.loads((run / "adapter" / "adapter_config.json").read_text())
    assert config["target_parameters"][0] == "model.layers.0.mlp.experts.gate_up_proj"
    merged = tunewise("adapter", "merge", run, "--out", tmp_path / "merged")
    assert merged.code == 0, merged.err
