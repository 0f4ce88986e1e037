"""Several adapters on one base: each is what it was alone, and the base comes back bit for bit."""

import pytest
import torch

from tests import bases
from tunewise.errors import UserError
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.methods.several import Adapters
from tunewise.methods.store import save_adapter

IDS = torch.tensor([[5, 9, 33, 20, 7], [8, 8, 60, 12, 50]])
METHODS = {
    "low rank": {"name": "lora", "rank": 2},
    "all": {"name": "full"},
    "soft": {"name": "prompt_tuning", "virtual_tokens": 2},
}


def moved(tuned, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in tuned.trainable.values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return tuned


def logits(tuned):
    with torch.no_grad():
        return bases.logits(tuned.model, IDS, tuned.prefix_ids)


def alone(name):
    return logits(moved(attach(bases.build("llama"), parse_method(METHODS[name]))))


def test_each_acts_alone_and_the_base_comes_back():
    model = bases.build("llama")
    base = bases.logits(model, IDS).detach()
    flags = [p.requires_grad for p in model.parameters()]
    adapters = Adapters(model)
    for name, method in METHODS.items():
        moved(adapters.add(name, parse_method(method)))
    assert adapters.names == tuple(METHODS)
    assert adapters.active == "soft"
    for name in ("all", "low rank", "soft", "all"):
        assert torch.equal(logits(adapters.use(name)), alone(name)), name
        for other in METHODS:
            grads = [p.requires_grad for p in adapters._tuned[other].trainable.values()]
            assert all(grads) or name != other
    with adapters.using("low rank") as tuned:
        assert torch.equal(logits(tuned), alone("low rank"))
    assert adapters.active == "all"
    adapters.use(None)
    assert torch.equal(bases.logits(model, IDS), base)
    assert [p.requires_grad for p in model.parameters()] == flags


def test_one_trains_on_after_another_acted():
    adapters = Adapters(bases.build("llama"))
    first = adapters.add("first", parse_method(METHODS["low rank"]))
    adapters.add("second", parse_method(METHODS["all"]))
    adapters.use("first")
    bases.logits(adapters.model, IDS).square().mean().backward()
    assert all(parameter.grad is not None for parameter in first.trainable.values())
    assert all(p.grad is None for p in adapters.model.parameters())


def test_names_that_are_taken_unknown_or_unreadable(tmp_path):
    model = bases.build("llama")
    adapters = Adapters(model)
    moved(adapters.add("first", parse_method(METHODS["low rank"])))
    with pytest.raises(UserError, match="there is an adapter named 'first' already"):
        adapters.add("first", parse_method(METHODS["soft"]))
    with pytest.raises(UserError, match="no adapter folder"):
        adapters.add("second", tmp_path)
    assert adapters.active == "first"
    assert torch.equal(logits(adapters.use("first")), alone("low rank"))
    with pytest.raises(UserError, match="'frist'"):
        adapters.use("frist")
    adapters.remove("first")
    assert adapters.names == ()
    assert adapters.active is None


def test_a_folder_is_an_adapter_too(tmp_path):
    tuned = moved(attach(bases.build("llama"), parse_method(METHODS["low rank"])))
    save_adapter(tuned, tmp_path / "adapter")
    adapters = Adapters(bases.build("llama"))
    adapters.add("all", parse_method(METHODS["all"]))
    assert torch.equal(logits(adapters.add("loaded", tmp_path / "adapter")), logits(tuned))
