"""A really pre-trained model in each format, on real text: its perplexity against transformers' model with the weights
of NF4's codebook written out."""

import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.real.test_zero_shot import FOLDER, STORIES
from tunewise import quantize
from tunewise.models import nf4

pytestmark = pytest.mark.skipif(
    not (FOLDER / "tinyshakespeare").is_dir(),
    reason=f"no data sets in {FOLDER}; name their folder in TUNEWISE_REAL_DATA",
)
N_LINES = 24


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """Speeches of some length, one a line."""
    speeches = (FOLDER / "tinyshakespeare" / "input.txt").read_text("utf-8").split("\n\n")
    path = tmp_path_factory.mktemp("text") / "speeches.txt"
    path.write_text(
        "".join(" ".join(each.split()) + "\n" for each in speeches if 100 < len(each) < 400)[:12_000], "utf-8"
    )
    return path


@torch.no_grad()
def loss_of(model, texts):
    """Nats a token, one text a forward."""
    tokenizer, total, n_tokens = AutoTokenizer.from_pretrained(STORIES), 0.0, 0
    for text in texts:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        told = model(ids, use_cache=False).logits[0, :-1].double().log_softmax(-1).gather(1, ids[0, 1:, None])
        total, n_tokens = total - told.sum().item(), n_tokens + len(told)
    return total / n_tokens


def test_four_bits_cost_more_than_eight_and_fp4_more_than_nf4(lines):
    found = {form: quantize(str(STORIES), form, data=str(lines), dtype="float32") for form in ("int8", "nf4", "fp4")}
    texts = lines.read_text("utf-8").splitlines()
    assert len(texts) > N_LINES
    assert found["nf4"]["measured_on"] == f"{len(texts)} of the {len(texts)} rows of speeches"
    model = AutoModelForCausalLM.from_pretrained(STORIES, dtype=torch.float32).eval()
    before = loss_of(model, texts)
    with torch.no_grad():
        for each in found["nf4"]["weights"]:
            weight = model.get_submodule(each["module"]).weight
            weight.copy_(nf4.dequantise(nf4.quantise(weight)))
    after = loss_of(model, texts)
    for told in found.values():
        assert told["metrics"]["before"]["loss"] == pytest.approx(before, abs=1e-5)
    assert found["nf4"]["metrics"]["after"]["loss"] == pytest.approx(after, abs=1e-3)
    assert found["nf4"]["metrics"]["after"]["perplexity"] == pytest.approx(math.exp(after), rel=1e-3)
    assert after > before
    for figure in ("kl", "mean_change"):
        int8, four, fp4 = (found[form]["changes"][figure] for form in ("int8", "nf4", "fp4"))
        assert 10 * int8 < 3 * four < 3 * fp4, figure
    assert (
        found["int8"]["relative_error"]
        < 0.01
        < 0.08
        < found["nf4"]["relative_error"]
        < 0.1
        < found["fp4"]["relative_error"]
    )
    assert found["nf4"]["bytes_after"] == found["fp4"]["bytes_after"] < found["int8"]["bytes_after"]


def test_ends_in_8_bits_cost_next_to_nothing_beside_four_bits(lines):
    nf4_alone, with_ends = (
        quantize(str(STORIES), form, data=str(lines), dtype="float32") for form in ("nf4", "nf4-ends8")
    )
    assert with_ends["bytes_after"] < 0.65 * nf4_alone["bytes_after"]
    assert abs(with_ends["metrics"]["after"]["loss"] - nf4_alone["metrics"]["after"]["loss"]) < 0.002
    assert with_ends["changes"]["kl"] == pytest.approx(nf4_alone["changes"]["kl"], rel=0.02)
    (embedding,) = [each for each in with_ends["weights"] if each["role"] == "embedding"]
    assert 0.003 < embedding["relative"] < 0.01
