"""A model on fused kernels against the same model as it is."""

import sys
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from tests import bases
from tests.rows import random_rows
from tests.tuned import moved
from tunewise.engine import packing
from tunewise.engine.fused import ROTATION, fused
from tunewise.engine.native.build import library, why_not
from tunewise.methods import parse_method
from tunewise.methods.attach import attach

pytestmark = pytest.mark.skipif(library() is None, reason=f"no kernels here: {why_not()}")
NORMS = {"llama": 5, "qwen3": 9, "gemma2": 9, "gemma3_text": 13, "phi3": 5, "gpt2": 0, "gpt_neox": 0}
GATED = ("llama", "qwen3", "gemma2", "gemma3_text", "phi3")
ROTATED = (*GATED, "gpt_neox")
TANH_GELU = ("gpt2", "gemma2", "gemma3_text")
METHODS = {
    "lora": {"name": "lora", "rank": 3, "roles": ["all"], "dropout": 0.3},
    "full": {"name": "full"},
    "norms": {"name": "norms"},
    "ia3": {"name": "ia3"},
}


def replaced(model, name):
    """The modules of this kind of class that have a forward of their own inside the block."""
    kind = {"norm": "RMSNorm", "gated": "MLP", "gelu": "GELU"}[name]
    return [module for module in model.modules() if kind in type(module).__name__ and "forward" in vars(module)]


@pytest.mark.parametrize("family", NORMS)
def test_what_is_replaced_and_put_back(family):
    model = bases.build(family, torch.float32)
    file = sys.modules[type(model).__module__]
    before = vars(file).get(ROTATION)
    with fused(model):
        assert len(replaced(model, "norm")) == NORMS[family]
        assert len(replaced(model, "gated")) == (bases.LAYERS if family in GATED else 0)
        assert bool(replaced(model, "gelu")) == (family in TANH_GELU)
        assert (vars(file).get(ROTATION) is not before) == (family in ROTATED)
        with fused(model):  # nothing changes inside it
            pass
        assert len(replaced(model, "norm")) == NORMS[family]
    assert not [module for module in model.modules() if "forward" in vars(module)]
    assert vars(file).get(ROTATION) is before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_gelu_itself_is_not_taken_for_its_tanh_form(family, dtype):
    model = bases.build(family, dtype)
    with fused(model):
        assert bool(replaced(model, "gelu")) == (family == "gpt2")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", NORMS)
def test_losses_and_gradients_are_those_of_the_model_as_it_is(family, method, monkeypatch):
    tuned = moved(attach(bases.build(family, torch.float32), parse_method(METHODS[method]), seed=1))
    tuned.model.train()
    batch = packing.pack(random_rows(7), 0)

    def losses_and_gradients():
        torch.manual_seed(3)
        with packing.packed_attention(tuned.model):
            losses = packing.packed_losses(tuned.model, batch)
            losses.sum().backward()
        found = [losses.detach(), *(tensor.grad.clone() for tensor in tuned.trainable.values())]
        for tensor in tuned.trainable.values():
            tensor.grad = None
        return found

    ours = losses_and_gradients()
    monkeypatch.setattr(packing, "fused", nullcontext)
    for one, other in zip(ours, losses_and_gradients(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=3e-5 * max(1.0, float(other.abs().max())))


def test_what_only_looks_alike_is_left_alone():
    model = bases.build("llama", torch.float32)
    norm, part = model.model.norm, model.model.layers[0].mlp

    class OtherRMSNorm(type(norm)):
        def forward(self, hidden_states):
            return super().forward(hidden_states) + 1e-3

    norm.__class__ = OtherRMSNorm
    for layer in model.model.layers:
        layer.mlp.act_fn = nn.ReLU()
    with fused(model):
        assert "forward" not in vars(norm)
        assert "forward" not in vars(part)
        assert len(replaced(model, "norm")) == NORMS["llama"] - 1


def test_float64_runs_as_it_is():
    model = bases.build("llama", torch.float64)
    with fused(model):
        assert not replaced(model, "norm")
