"""peft's LoftQ and PiSSA as oracles of bases quantised around an adapter."""

import inspect

import peft
import pytest
import torch
from peft.utils import loftq_utils
from transformers import AutoModelForCausalLM

from tests.small_base import write_base
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.methods.reparam.around import quantise_around
from tunewise.models.load import load_base
from tunewise.models.quantise import dequantised_weight, pack
from tunewise.models.weights import module_weight

RANK = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    """A base whose rows are whole blocks of 64."""
    return str(write_base(tmp_path_factory.mktemp("wide") / "base", width=64))


def around(folder, form, by, turns):
    base = load_base(folder, "float32", quantise=form)
    method = parse_method({"name": "lora", "rank": RANK, "alpha": RANK, "roles": ["q", "v", "down"]})
    tuned = attach(base.model, method)
    return tuned, quantise_around(base.model, base.anatomy, tuned.deltas, by, turns)


def pefts_loftq():
    """Its own code, which asks for a GPU by name, on the CPU."""
    source = inspect.getsource(loftq_utils.loftq_init)
    assert '"xpu" if is_xpu_available() else "cuda"' in source
    scope = dict(vars(loftq_utils))
    exec(source.replace('"cuda"', '"cpu"'), scope)
    return scope["loftq_init"]


@pytest.mark.parametrize("turns", [1, 5])
@pytest.mark.parametrize(("form", "bits"), [("nf4", 4), ("int8", 8)])
def test_loftq_loses_as_little_as_pefts(form, bits, turns, folder):
    """Of peft's NF4 the constants are not quantised again, so that it loses a little less."""
    tuned, lost = around(folder, form, "loftq", turns)
    plain = load_base(folder, "float32")
    for site in tuned.anatomy.linear:
        if site.name in tuned.deltas:
            weight = module_weight(plain.model, site).clone()
            stored, a, b = pefts_loftq()(weight, bits, RANK, turns)
            theirs = float((weight - stored - b @ a).norm() / weight.norm())
            ours = lost[site.module].turns[-1]
            assert ours < lost[site.module].plain
            assert ours == pytest.approx(theirs, rel=0.02), site.name


@pytest.mark.parametrize("form", ["nf4", "int8"])
def test_one_turn_of_qpissa_is_pefts_residual_quantised(form, folder):
    tuned, lost = around(folder, form, "pissa", 1)
    config = peft.LoraConfig(
        r=RANK, lora_alpha=RANK, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights="pissa"
    )
    theirs = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), config)
    fresh = load_base(folder, "float32", quantise=form).model
    for name, delta in tuned.deltas.items():
        path = tuned.site(name).module
        layer = theirs.get_submodule(f"base_model.model.{path}")
        product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        torch.testing.assert_close(delta.product(), product, rtol=0, atol=1e-5)
        again = fresh.get_submodule(path)
        pack(again, layer.base_layer.weight)
        ours = dequantised_weight(tuned.model.get_submodule(path))
        assert ((dequantised_weight(again) - ours).abs() > 1e-4).double().mean() < 0.01
        assert lost[path].turns[0] < lost[path].plain
