"""Packed layers on the kernel against the same as bitsandbytes' codes say, and against the dense product."""

import gc
import weakref
from contextlib import nullcontext

import pytest
import torch
from bitsandbytes.nn import Linear4bit

from tests import bases
from tests.rows import random_rows
from tunewise.engine import dequantised, packing
from tunewise.engine.dequantised import forwards
from tunewise.engine.fused import fused
from tunewise.engine.native.build import library, why_not
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.models.quantise import FORMATS, dequantised_weight, packed_weights

pytestmark = pytest.mark.skipif(library() is None, reason=f"no kernels here: {why_not()}")
LORA = {"name": "lora", "rank": 3, "roles": ["all"]}


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_packed_layer_is_taken_and_put_back(form, family, dtype):
    model = bases.quantised(form, family, dtype)
    layers = list(packed_weights(model).values())
    with fused(model):
        assert all("forward" in vars(layer) for layer in layers)
    assert not any("forward" in vars(layer) for layer in layers)
    assert [layer for layer, _ in forwards(model)] == layers


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_and_gradients_are_those_of_the_layers_as_they_are(form, dtype, monkeypatch):
    """Bit for bit: the weights are, and the products."""
    batch = packing.pack(random_rows(7), 0)

    def losses_and_gradients():
        tuned = attach(bases.quantised(form, "qwen2", dtype), parse_method(LORA), seed=1)
        tuned.model.train()
        with packing.packed_attention(tuned.model):
            losses = packing.packed_losses(tuned.model, batch)
            losses.sum().backward()
        return [losses.detach(), *(tensor.grad for tensor in tuned.trainable.values())]

    ours = losses_and_gradients()
    monkeypatch.setattr("tunewise.engine.dequantised.forwards", lambda model: [])
    for one, other in zip(ours, losses_and_gradients(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("inside", [fused, nullcontext])
def test_gradients_of_the_input_and_the_bias_are_those_of_the_dense_product(form, inside):
    model = bases.quantised(form, "qwen2").train()
    layer = model.model.layers[0].self_attn.q_proj
    layer.bias.requires_grad_(True)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, bases.WIDTH, generator=generator).requires_grad_()
    outer = torch.randn(2, 5, layer.out_features, generator=generator)
    weight = dequantised_weight(layer).double()
    with inside(model):
        y = layer(x)
        y.backward(outer)
    wanted = x.double() @ weight.T + layer.bias.double()
    torch.testing.assert_close(y.double(), wanted, rtol=0, atol=1e-5)
    torch.testing.assert_close(x.grad.double(), outer.double() @ weight, rtol=0, atol=1e-5)
    torch.testing.assert_close(layer.bias.grad.double(), outer.double().sum((0, 1)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("inside", [fused, nullcontext])
def test_no_input_and_no_weight_is_kept_for_the_backward_pass(form, inside):
    model = bases.quantised(form).train()
    layer = model.model.layers[0].self_attn.q_proj
    x = torch.ones(1, 4, bases.WIDTH, requires_grad=True)
    entered = x * 2
    told = weakref.ref(entered)
    with inside(model):
        y = layer(entered)
    del entered
    gc.collect()
    assert told() is None
    y.sum().backward()
    torch.testing.assert_close(x.grad[0, 0], 2 * dequantised_weight(layer).sum(0), rtol=0, atol=1e-5)


def test_eight_bits_round_what_enters_in_evaluation():
    model = bases.quantised("int8")
    ids = torch.tensor([[5, 9, 33, 20]])
    with torch.no_grad():
        as_it_is = model(ids).logits
        layer = model.model.layers[0].mlp.down_proj
        x = torch.randn(1, 4, layer.in_features, generator=torch.Generator().manual_seed(0))
        of_layer = layer(x)
        with fused(model):
            assert torch.equal(layer(x), of_layer)
            torch.testing.assert_close(model(ids).logits, as_it_is, rtol=0, atol=1e-3)
        assert not torch.equal(x @ dequantised_weight(layer).T, of_layer)


def test_a_layer_that_repacks_itself_is_left_alone():
    model = bases.quantised("nf4")
    for layer in packed_weights(model).values():
        layer.__class__ = Linear4bit
    assert forwards(model) == []


def test_a_weight_that_comes_out_otherwise_is_left_alone(monkeypatch):
    kernel = dequantised.dequantised
    monkeypatch.setattr(dequantised, "dequantised", lambda codes, dtype: kernel(codes, dtype) * (1 + 1e-6))
    assert forwards(bases.quantised("nf4")) == []


def test_a_constant_that_is_changed_is_seen():
    model = bases.quantised("nf4")
    layer = model.model.layers[0].mlp.up_proj
    x = torch.ones(1, bases.WIDTH)
    with fused(model):
        before = layer(x)
        layer.weight.quant_state.state2.absmax *= 2
        assert not torch.equal(layer(x), before)
    torch.testing.assert_close((dequantised_weight(layer) @ x[0])[None], layer(x), rtol=0, atol=1e-5)
