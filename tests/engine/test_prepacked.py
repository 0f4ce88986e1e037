"""Products by copies of frozen weights against those by the weights, bit for bit, whatever becomes of the weights."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests import bases
from tests.rows import random_rows
from tests.tuned import moved
from tunewise.engine import packing, prepacked
from tunewise.engine.backend import backend, chosen
from tunewise.engine.fused import _PLANS, _prepacked, fused, held
from tunewise.engine.native.build import library, why_not
from tunewise.engine.prepacked import Prepacked
from tunewise.engine.recomputing import recompute
from tunewise.methods import parse_method
from tunewise.methods.attach import attach

pytestmark = pytest.mark.skipif(library() is None, reason=f"no kernels here: {why_not()}")
DTYPES = [torch.float32, torch.bfloat16]
FAMILIES = ["llama", "qwen2", "gemma2", "t5"]
METHODS = {
    "lora": {"name": "lora", "rank": 3, "roles": ["all"]},
    "bitfit": {"name": "bitfit"},
    "full": {"name": "full"},
}


@pytest.fixture(autouse=True)
def through_onednn(monkeypatch):
    """Also where another library is faster; and of bases as small as these."""
    monkeypatch.setattr("tunewise.engine.prepacked.SMALLEST", 0)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


def copies_of_weights(model):
    return [by.copy for by in _prepacked(model) if by.copy is not None]


def linear(dtype, bias=True):
    """Large enough for torch to take oneDNN."""
    torch.manual_seed(0)
    module = nn.Linear(96, 80, bias=bias).to(dtype)
    module.weight.requires_grad_(False)
    return module, Prepacked(module, {})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
def test_the_second_product_and_its_gradients_are_those_of_the_first(dtype, bias):
    module, forward = linear(dtype, bias)

    def product_and_gradients(by):
        x = torch.randn(1, 70, 96, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
        y = by(x)
        y.square().sum().backward()
        found = [y, x.grad, *(parameter.grad for parameter in module.parameters() if parameter.requires_grad)]
        module.zero_grad()
        return found

    expected = product_and_gradients(module)
    for wanted in (None, Prepacked):
        found = product_and_gradients(forward)
        assert (forward.copy is None) == (wanted is None)
        assert len(found) == 2 + bias
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.parametrize("rows", [1, 2, 3, 17, 256])
@pytest.mark.parametrize("dtype", DTYPES)
def test_of_any_number_of_rows(dtype, rows):
    module, forward = linear(dtype)
    x = torch.randn(rows, 96).to(dtype)
    with torch.no_grad():
        for _ in range(3):
            assert torch.equal(forward(x), functional.linear(x, module.weight, module.bias))
        assert forward.copy is not None
        assert torch.equal(forward(x[:0]), module(x[:0]))


CHANGES = {
    "in place": lambda module: module.weight.mul_(2),
    "by a copy": lambda module: module.weight.copy_(module.weight * 2),
    "as data": lambda module: setattr(module.weight, "data", module.weight.data * 2),
    "another parameter": lambda module: setattr(module, "weight", nn.Parameter(module.weight * 2, requires_grad=False)),
    "to another precision and back": lambda module: module.double().float().weight.mul_(2),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_weight_that_changes_is_copied_again(change):
    module, forward = linear(torch.float32)
    x = torch.randn(64, 96)
    with torch.no_grad():
        for _ in range(2):
            before = forward(x)
        first = forward.copy
        CHANGES[change](module)
        for _ in range(2):
            assert torch.equal(forward(x), module(x))
        assert not torch.equal(forward(x), before)
    assert forward.copy is not None
    assert forward.copy is not first


def test_a_weight_that_is_trained_has_no_copy():
    module, forward = linear(torch.float32)
    x = torch.randn(64, 96)
    for _ in range(2):
        forward(x)
    assert forward.copy is not None
    module.weight.requires_grad_(True)
    optimiser = torch.optim.AdamW(module.parameters(), lr=0.1, fused=True)  # it tells nobody that it changes a weight
    for _ in range(3):
        optimiser.zero_grad()
        forward(x).square().sum().backward()
        optimiser.step()
        assert forward.copy is None
    module.weight.requires_grad_(False)
    for _ in range(2):
        assert torch.equal(forward(x), module(x))


def test_of_a_model_that_may_be_trained_there_is_none():
    model = bases.build("llama", torch.float32)
    with torch.no_grad(), held(model), fused(model):
        for _ in range(3):
            model(input_ids=torch.arange(12)[None])
        assert not copies_of_weights(model)


def test_copies_last_while_a_model_is_held():
    model = bases.build("llama", torch.float32).requires_grad_(False)

    def n_copies_behind_a_pass():
        with fused(model):
            model(input_ids=torch.arange(12)[None])
        return len(copies_of_weights(model))

    assert [n_copies_behind_a_pass() for _ in range(3)] == [0, 0, 0]
    with held(model):
        assert [n_copies_behind_a_pass() > 0 for _ in range(3)] == [False, True, True]
        with held(model):
            assert n_copies_behind_a_pass()
        assert not copies_of_weights(model)
        assert [n_copies_behind_a_pass() > 0 for _ in range(2)] == [False, True]
        with fused(model):
            with fused(model):
                pass
            assert copies_of_weights(model)
            assert not copies_of_weights(copy.deepcopy(model))
    assert not copies_of_weights(model)


@pytest.mark.parametrize("dtype", DTYPES)
def test_where_torch_would_round_otherwise_it_is_torch(dtype):
    module, forward = linear(dtype)
    x = torch.randn(96, 3, 64).to(dtype).permute(1, 2, 0)
    with torch.no_grad():
        for _ in range(3):
            assert torch.equal(forward(x), module(x))
            forward(x.contiguous())


def test_weights_made_in_inference_mode_have_none():
    with torch.inference_mode():
        module = nn.Linear(96, 80)
        forward, x = Prepacked(module, {}), torch.randn(64, 96)
        for _ in range(3):
            assert torch.equal(forward(x), module(x))
    assert forward.copy is None


def test_autocast_is_heeded():
    _, forward = linear(torch.float32)
    x = torch.randn(64, 96)
    forward(x), forward(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert forward(x).dtype == torch.bfloat16
        forward(x.requires_grad_()).float().sum().backward()
    assert x.grad is not None


def test_a_model_that_was_trained_meanwhile_is_copied_again():
    """Elsewhere, by an optimiser that leaves versions of weights as they are; it was frozen before and is behind."""
    model = bases.build("llama", torch.float32).requires_grad_(False)
    ids = torch.arange(12)[None]

    def logits():
        with torch.no_grad(), fused(model):
            return [model(input_ids=ids).logits for _ in range(2)][1]

    before = logits()
    versions = [parameter._version for parameter in model.parameters()]
    model.requires_grad_(True)
    model(input_ids=ids, labels=ids).loss.backward()
    torch.optim.AdamW(model.parameters(), lr=0.1, fused=True).step()
    model.requires_grad_(False)
    assert versions == [parameter._version for parameter in model.parameters()]
    with torch.no_grad():
        expected = model(input_ids=ids).logits
    assert not torch.allclose(before, expected, atol=1e-3)
    torch.testing.assert_close(logits(), expected, atol=1e-4, rtol=1e-4)


def test_where_activations_are_computed_again_the_first_step_is_as_all_others():
    """In which a weight is met for the second time in the backward pass."""
    tuned = attach(bases.build("llama", torch.float32), parse_method(METHODS["lora"]), seed=1)
    tuned.model.train()
    recompute(tuned.model, on=True)
    batch = packing.pack(random_rows(7), 0)
    found = []
    with packing.packed_attention(tuned.model):
        for _ in range(2):
            losses = packing.packed_losses(tuned.model, batch)
            found.append([losses.detach(), *torch.autograd.grad(losses.sum(), tuned.trainable.values())])
        assert copies_of_weights(tuned.model)
    torch.testing.assert_close(*found)


def test_a_copy_that_multiplies_otherwise_is_not_used(monkeypatch):
    module, forward = linear(torch.float32)
    real = prepacked._product
    monkeypatch.setattr(
        "tunewise.engine.prepacked._product",
        lambda x, weight, bias, copy: real(x, weight, bias, copy) + (1e-6 if copy is not None else 0),
    )
    x = torch.randn(64, 96)
    for _ in range(3):
        assert torch.equal(forward(x), module(x))
        assert forward.copy is None


def test_without_onednn_there_is_none():
    _, forward = linear(torch.float32)
    torch.set_float32_matmul_precision("highest")
    for _ in range(3):
        forward(torch.randn(64, 96))
        assert forward.copy is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", METHODS)
def test_losses_and_gradients_of_a_model_are_the_same(method, dtype, monkeypatch):
    batch = packing.pack(random_rows(7), 0)

    def losses_and_gradients():
        tuned = moved(attach(bases.build("qwen2", dtype), parse_method(METHODS[method]), seed=1))
        tuned.model.train()
        with packing.packed_attention(tuned.model):
            for _ in range(2):
                losses = packing.packed_losses(tuned.model, batch)
                gradients = torch.autograd.grad(losses.sum(), tuned.trainable.values())
            assert bool(copies_of_weights(tuned.model)) == (method != "full" and prepacked.MOST_BYTES > 0)
        return [losses.detach(), *gradients]

    ours = losses_and_gradients()
    monkeypatch.setattr("tunewise.engine.prepacked.forwards", lambda *given: [])
    monkeypatch.setattr("tunewise.engine.prepacked.MOST_BYTES", 0)
    for one, other in zip(ours, losses_and_gradients(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_linear_module_of_the_layers_of_a_model(family):
    model = bases.build(family, torch.float32).requires_grad_(False)
    with fused(model):
        found = [module for module, by in _PLANS[model].forwards if isinstance(by, Prepacked)]
    linear = [module for path, module in model.named_modules() if type(module) is nn.Linear and ".layer" in f".{path}"]
    if family == "t5":
        linear = [module for path, module in model.named_modules() if type(module) is nn.Linear and ".block." in path]
    assert linear
    assert set(linear) <= set(found)
    assert len(found) - len(linear) == 1  # the head


def test_the_head_is_copied_for_answers_and_not_in_training():
    model = bases.build("llama", torch.float32).requires_grad_(False)
    ids = torch.arange(12)[None]
    layers = sum(1 for path, module in model.named_modules() if type(module) is nn.Linear and ".layers." in path)
    with fused(model):
        for _ in range(2):
            model(input_ids=ids)
        assert len(copies_of_weights(model)) == layers
        with torch.no_grad():
            for _ in range(2):
                model(input_ids=ids)
        assert len(copies_of_weights(model)) == layers + 1
        model(input_ids=ids)
        assert len(copies_of_weights(model)) == layers


def test_of_a_model_of_middle_size_copies_last_as_long_as_it_is_asked(monkeypatch):
    monkeypatch.setattr("tunewise.engine.prepacked.MOST_THAT_STAY", 1000)
    model = bases.build("llama", torch.float32).requires_grad_(False)
    ids = torch.arange(12)[None]
    for _ in range(2):
        with fused(model):
            for _ in range(2):
                model(input_ids=ids)
            assert not copies_of_weights(model)
            with torch.no_grad():
                for _ in range(2):
                    model(input_ids=ids)
            assert copies_of_weights(model)
        assert not copies_of_weights(model)


def test_a_large_model_is_copied_where_it_is_only_asked(monkeypatch):
    monkeypatch.setattr("tunewise.engine.prepacked.MOST_BYTES", 1000)
    monkeypatch.setattr("tunewise.engine.prepacked.free_memory", lambda: 1 << 30)
    model = bases.build("llama", torch.float32).requires_grad_(False)

    def n_copies():
        with torch.no_grad(), fused(model):
            for _ in range(2):
                model(input_ids=torch.arange(12)[None])
            return len(copies_of_weights(model))

    with held(model, is_answering=True):
        assert n_copies() > 0
    assert not copies_of_weights(model)
    assert n_copies() == 0
    monkeypatch.setattr("tunewise.engine.prepacked.free_memory", lambda: 1 << 12)
    with held(model, is_answering=True):
        assert n_copies() == 0


def test_where_a_copy_cannot_be_made_there_is_none(monkeypatch):
    def refuse(*_):
        raise RuntimeError("could not create a primitive descriptor")

    module, forward = linear(torch.float32)
    x = torch.randn(64, 96)
    monkeypatch.setattr("tunewise.engine.prepacked._product", refuse)
    with torch.no_grad():
        forward._current(module.weight, x)
        assert forward._current(module.weight, x) is None
        assert not any(forward._shapes.values())


@pytest.mark.parametrize("way", ["by the environment", "without oneDNN"])
def test_turned_off(way, monkeypatch):
    if way == "without oneDNN":
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    else:
        monkeypatch.setenv("TUNEWISE_BACKEND", "0")
    model = bases.build("llama", torch.float32).requires_grad_(False)
    with torch.no_grad(), fused(model):
        for _ in range(2):
            model(input_ids=torch.arange(12)[None])
        assert not copies_of_weights(model)


def test_what_is_chosen_is_what_the_backend_measured():
    torch.set_float32_matmul_precision("highest")
    _, forward = linear(torch.float32)
    with chosen():
        for _ in range(2):
            forward(torch.randn(64, 96))
    assert (forward.copy is not None) == backend().onednn
