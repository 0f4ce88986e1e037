"""What each route of merging into a quantised base changes, against peft's own merges and logits a row at a time."""

import numpy as np
import peft
import pytest
import torch
from scipy.special import log_softmax
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from tests.conftest import leave_out_fresh_processes
from tests.small_base import QUICK, write_base, write_reviews
from tunewise.data.config import DataConfig
from tunewise.data.encode import encode
from tunewise.data.load import load_task
from tunewise.models.load import load_base
from tunewise.run import build_recipe, merge_by, run, weigh_routes

MASKED = -100
NF4 = BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A base whose rows are whole blocks of 64, on which bitsandbytes' own kernels are right on every machine, and a
    run of QLoRA on it."""
    folder = tmp_path_factory.mktemp("place")
    base, data = write_base(folder / "base", width=64), write_reviews(folder / "reviews.csv")
    asked = build_recipe(
        {
            "model": str(base), "data": str(data), "dtype": "float32", "quantise": "nf4",
            "method": {"name": "lora", "rank": 4},
        },
        QUICK | {"train.learning_rate": 5e-2},
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:  # the reload in a fresh process is tested elsewhere
        leave_out_fresh_processes(patch)
        run(asked, folder / "run")
    return folder


def peft_models(place):
    """The base and the adapter as their own libraries load and merge them; in training mode (there is no dropout), in
    which bitsandbytes leaves packed weights as they are."""
    adapter = place / "run" / "adapter"

    def quantised():
        return AutoModelForCausalLM.from_pretrained(place / "base", quantization_config=NF4, dtype=torch.float32)

    plain = AutoModelForCausalLM.from_pretrained(place / "base", dtype=torch.float32)
    return {
        "without_adapter": quantised().train(),
        "attached": peft.PeftModel.from_pretrained(quantised(), adapter).train(),
        "dequantised": peft.PeftModel.from_pretrained(quantised().dequantize(), adapter).merge_and_unload().train(),
        "original": peft.PeftModel.from_pretrained(plain, adapter).merge_and_unload().train(),
    }


def logits_at_labels(model, examples, tokenizer):
    """(labels, vocabulary) in float64, one row after another."""
    found = []
    for example in examples:
        row = encode(example, tokenizer, 96)
        places = [index - 1 for index, label in enumerate(row.labels) if label != MASKED]
        with torch.no_grad():
            found.append(model(input_ids=torch.tensor([row.ids])).logits[0, places].double().numpy())
    return np.concatenate(found)


def test_the_change_of_each_route_is_the_one_between_pefts_models(place):
    base = load_base(str(place / "base"), "float32", quantise="nf4")
    found = weigh_routes(base, place / "run")
    task = load_task(DataConfig(path=str(place / "reviews.csv")), base.tokenizer)
    assert found["measured_on"] == f"{len(task.dev)} of the {len(task.dev)} dev rows of reviews"
    logits = {name: logits_at_labels(model, task.dev, base.tokenizer) for name, model in peft_models(place).items()}
    measured = {"without_adapter": found["without_adapter"], **found["routes"]}
    assert measured.keys() == logits.keys()
    reference = logits["attached"]
    for name, theirs in logits.items():
        p, q = log_softmax(reference, -1), log_softmax(theirs, -1)
        wanted = {
            "n_labels": len(theirs),
            "largest_change": np.abs(theirs - reference).max(),
            "mean_change": np.abs(theirs - reference).mean(),
            "kl": (np.exp(p) * (p - q)).sum(-1).mean(),
            "agreement": (theirs.argmax(-1) == reference.argmax(-1)).mean(),
        }
        for figure, value in wanted.items():
            assert measured[name][figure] == pytest.approx(value, rel=1e-3, abs=2e-5), (name, figure)
    # the routes differ by what they should: one is rounding alone, one is what quantisation lost
    assert measured["dequantised"]["largest_change"] < 1e-4
    assert 1e-3 < measured["original"]["largest_change"] < measured["without_adapter"]["largest_change"]


@pytest.mark.parametrize("route", ["dequantised", "original"])
def test_the_merged_folder_is_pefts_merge_and_says_what_it_changed(place, route, tmp_path):
    base = load_base(str(place / "base"), "float32", quantise="nf4")
    told = merge_by(base, place / "run", route, tmp_path / "merged")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    theirs = peft_models(place)[route]
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(model.get_parameter(name), parameter, rtol=0, atol=1e-6)
    assert told["route"] == route
    assert told["routes"].keys() == {"attached", route}
    assert told["routes"][route]["memory_bytes"] == sum(4 * p.numel() for p in theirs.parameters())
