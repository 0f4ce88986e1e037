"""bitsandbytes' own layers and peft's QLoRA as oracles of a quantised base and of adapters on it."""

import copy

import peft
import pytest
import torch
from bitsandbytes.nn import Linear4bit, Params4bit

from tests import bases
from tests.small_base import write_base
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.methods.store import load_adapter, save_adapter
from tunewise.models.load import load_base
from tunewise.models.quantise import dequantised_weight, keep_layout

IDS = torch.tensor([[5, 9, 33, 20, 7, 41, 3], [8, 8, 60, 12, 50, 6, 11]])
CONFIGS = {
    "lora": (peft.LoraConfig, {"r": 4, "lora_alpha": 12, "target_modules": ["q_proj", "v_proj", "down_proj"]}),
    "dora": (peft.LoraConfig, {"r": 4, "use_dora": True, "target_modules": ["q_proj", "v_proj", "down_proj"]}),
    "ia3": (peft.IA3Config, {"target_modules": ["k_proj", "v_proj"], "feedforward_modules": []}),
}
CLOSE = {torch.float32: {"rtol": 1e-5, "atol": 1e-5}, torch.bfloat16: {"rtol": 2e-2, "atol": 2e-2}}
METHODS = {
    "lora": {"name": "lora", "rank": 4, "alpha": 12, "roles": ["q", "v", "down"]},
    "dora": {"name": "dora", "rank": 4, "roles": ["q", "v", "down"]},
    "ia3": {"name": "ia3"},
    "vera": {"name": "vera", "rank": 8},
    "norms": {"name": "norms"},
    "prompt_tuning": {"name": "prompt_tuning", "virtual_tokens": 3},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    """A base whose rows are whole blocks of 64, on which peft's own dequantised weights are right on every machine."""
    return str(write_base(tmp_path_factory.mktemp("wide") / "base", width=64))


def randomise(parameters) -> None:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("form", ["nf4", "fp4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_four_bit_layer_is_bitsandbytes_own(form, dtype):
    """Rows of whole blocks and gradients on, where its kernels are the plain ones on every machine."""
    torch.manual_seed(0)
    layer = Linear4bit(128, 64, compute_dtype=dtype, quant_type=form)
    layer.weight = Params4bit(layer.weight.data.to(dtype), requires_grad=False, quant_type=form).to("cpu")
    layer.bias.data = layer.bias.data.to(dtype)
    ours = copy.deepcopy(layer)
    keep_layout(ours)
    assert type(ours) is not type(layer)
    x = torch.randn(2, 5, 128, dtype=dtype)
    found = []
    for each in (layer.train(), ours.eval()):
        entered = x.clone().requires_grad_(True)
        y = each(entered)
        y.float().square().sum().backward()
        found.append((y, entered.grad, each.bias.grad))
    for theirs, own in zip(*found, strict=True):
        torch.testing.assert_close(own, theirs, **CLOSE[dtype])
    assert torch.equal(dequantised_weight(ours), dequantised_weight(layer))


@pytest.mark.parametrize("form", ["nf4", "int8"])
@pytest.mark.parametrize("name", METHODS)
def test_peft_reads_an_adapter_of_a_quantised_base(name, form, folder, tmp_path):
    tuned = attach(load_base(folder, "float32", quantise=form).model, parse_method(METHODS[name]))
    randomise(tuned.trainable.values())
    save_adapter(tuned, tmp_path / "adapter")
    theirs = peft.PeftModel.from_pretrained(load_base(folder, "float32", quantise=form).model, tmp_path / "adapter")
    n_virtual = len(tuned.prefix_ids)
    with torch.no_grad():
        wanted = theirs(input_ids=IDS).logits[:, n_virtual:]
    ours = bases.logits(tuned.model, IDS, tuned.prefix_ids)
    torch.testing.assert_close(wanted, ours, rtol=0, atol=1e-4 if form == "nf4" else 2e-2)
    assert (ours - bases.logits(load_base(folder, "float32", quantise=form).model, IDS)).abs().max() > 1e-2


@pytest.mark.parametrize("form", ["nf4", "int8"])
@pytest.mark.parametrize("name", CONFIGS)
def test_we_read_pefts_adapter_of_a_quantised_base_with_its_gradients(name, form, folder, tmp_path):
    kind, fields = CONFIGS[name]
    theirs = peft.get_peft_model(
        load_base(folder, "float32", quantise=form).model, kind(task_type="CAUSAL_LM", **fields)
    )
    trained = [p for p in theirs.parameters() if p.requires_grad]
    randomise(trained)
    theirs.train().save_pretrained(tmp_path / "adapter")
    tuned = load_adapter(load_base(folder, "float32", quantise=form).model, tmp_path / "adapter")
    tuned.model.train()
    found = []
    for model in (theirs, tuned.model):
        logits = model(input_ids=IDS).logits
        logits.square().mean().backward()
        found.append(logits.detach())
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-4)
    assert len(tuned.trainable) == len(trained)
    norms = sorted(float(p.grad.norm()) for p in trained)
    torch.testing.assert_close(
        torch.tensor(sorted(float(p.grad.norm()) for p in tuned.trainable.values())),
        torch.tensor(norms),
        rtol=1e-3,
        atol=1e-5,
    )
