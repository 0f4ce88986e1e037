"""Lanes on a base: each part of a batch as its own method makes it, and the base untouched behind it."""

import pytest
import torch

from tests import bases
from tests.methods.promises import randomise
from tests.training.test_loop import same
from tunewise.errors import UserError
from tunewise.methods import parse_method
from tunewise.methods.alone import CannotShare, why_not_a_lane
from tunewise.methods.attach import attach
from tunewise.methods.lanes import Draws, Lanes, Part, Parts

METHODS = [
    {"name": "lora", "rank": 4, "roles": ["all"]},
    {"name": "full"},
    {"name": "oft", "block_size": 4},
    {"name": "parallel", "bottleneck": 4},
    {"name": "norms"},
]
IDS = torch.tensor(
    [[5, 9, 33, 20, 7], [8, 8, 60, 12, 50], [1, 2, 3, 4, 5], [6, 6, 6, 6, 6], [9, 8, 7, 6, 5], [4, 4, 2, 2, 1]]
)


def tuned_on(model):
    """Each method with an effect, detached, and what it makes of IDS alone."""
    found = []
    for number, fields in enumerate(METHODS):
        tuned = attach(model, parse_method(fields), seed=number)
        randomise(tuned)
        with torch.no_grad():
            expected = model(IDS).logits
        tuned.detach()
        found.append((tuned, expected))
    return found


def beside(model, tuned):
    return Lanes(tuned, [Draws(0, model.device) for _ in tuned])


@pytest.mark.parametrize("family", ["llama", "llama_tied", "phi3"])
def test_every_row_is_what_its_lane_makes_of_it(family):
    model = bases.build(family, torch.float64)
    base, before = model(IDS).logits, {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tuned, expected = zip(*tuned_on(model), strict=True)
    rows = [(2, 1), (0, 1), (4, 1), (1, 2), (3, 1)]
    with torch.no_grad(), beside(model, tuned) as lanes:
        with lanes.at(Parts(0, tuple(Part(lane, size, size) for lane, size in rows))):
            found = model(IDS).logits
        torch.testing.assert_close(model(IDS).logits, base, rtol=0, atol=0)
        with lanes.only(tuned[1]):
            torch.testing.assert_close(model(IDS).logits, expected[1], rtol=0, atol=0)
        assert same(dict(model.state_dict()), before)
    start = 0
    for lane, size in rows:
        rows_of = slice(start, start + size)
        torch.testing.assert_close(found[rows_of], expected[lane][rows_of], rtol=0, atol=1e-12)
        assert not torch.allclose(found[rows_of], base[rows_of])
        start += size


def test_lanes_that_are_alike_are_computed_by_batched_products():
    """Three LoRAs of one rank and scaling on parts of one size; with dropout, or as DoRA, each by itself."""
    model = bases.build("llama", torch.float64)
    fields = [{"name": "lora", "rank": 4, "roles": ["all"], "b_rate": rate} for rate in (1.0, 2.0, 4.0)]
    tuned = []
    for number, each in enumerate(fields):
        one = attach(model, parse_method(each), seed=number)
        randomise(one)
        one.detach()
        tuned.append(one)
    deltas = [one.deltas["layers.1.down"] for one in tuned]
    assert len({delta.stack_key() for delta in deltas} - {None}) == 1
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, 48, generator=generator, dtype=torch.float64)
    y = torch.randn(3, 5, 32, generator=generator, dtype=torch.float64)
    each_alone = torch.stack([delta.after(x[i], y[i]) for i, delta in enumerate(deltas)])
    torch.testing.assert_close(type(deltas[0]).stacked(deltas, x, y), each_alone, rtol=0, atol=1e-12)
    found, expected = [], []
    with torch.no_grad(), beside(model, tuned) as lanes:
        with lanes.at(Parts(0, tuple(Part(lane, 2, 2) for lane in (2, 0, 1)))):
            found = model(IDS).logits
        for lane in (2, 0, 1):
            with lanes.only(tuned[lane]):
                expected.append(model(IDS[len(expected) * 2 :][:2]).logits)
    torch.testing.assert_close(found, torch.cat(expected), rtol=0, atol=1e-12)
    drawing = attach(model, parse_method({"name": "lora", "dropout": 0.1}))
    assert next(iter(drawing.deltas.values())).stack_key() is None
    drawing.detach()
    assert next(iter(attach(model, parse_method("dora")).deltas.values())).stack_key() is None


def test_behind_the_block_the_base_is_itself_and_each_can_be_put_on_again():
    model = bases.build("llama", torch.float64)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modules, flags = [type(module) for module in model.modules()], [p.requires_grad for p in model.parameters()]
    tuned, expected = zip(*tuned_on(model), strict=True)
    with beside(model, tuned):
        with pytest.raises(UserError, match="already carries 'lora beside full"):
            attach(model, parse_method("lora"))
        with pytest.raises(UserError, match="already carries"):
            tuned[0].reattach()
        for parameter in tuned[1].trainable.values():
            parameter.data.add_(0.01)
    assert same(dict(model.state_dict()), before)
    assert [type(module) for module in model.modules()] == modules
    assert [p.requires_grad for p in model.parameters()] == flags
    assert not any("forward" in vars(module) for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    for each, logits in zip(tuned, expected, strict=True):
        each.reattach()
        with torch.no_grad():
            distance = float((model(IDS).logits - logits).abs().max())
        assert (distance > 1e-6) if each is tuned[1] else (distance == 0.0)
        each.detach()


def test_a_forward_that_someone_has_put_on_a_module_is_there_again():
    model = bases.build("llama", torch.float64)
    norm = model.model.norm
    calls = []
    own = norm.forward
    norm.forward = lambda x: calls.append(1) or own(x)
    mine = norm.forward
    tuned = attach(model, parse_method("norms"))
    tuned.detach()
    with beside(model, [tuned]) as lanes, lanes.at(Parts(0, (Part(0, len(IDS), len(IDS)),))):
        model(IDS)
    assert calls
    assert norm.forward is mine


def test_what_acts_on_whole_stacks_is_no_lane():
    model = bases.build("bert_classes")
    tuned = attach(model, parse_method({"name": "prefix_tuning", "virtual_tokens": 2}))
    tuned.detach()
    assert why_not_a_lane(tuned) == "prefix_tuning acts on a whole stack of layers here"
    with pytest.raises(CannotShare, match="whole stack"):
        beside(model, [tuned]).__enter__()
    attach(model, parse_method("lora")).detach()


def test_parts_that_a_module_does_not_see_are_refused():
    model = bases.build("llama", torch.float64)
    tuned = attach(model, parse_method("lora"))
    tuned.detach()
    told = pytest.raises(CannotShare, match="does not see the parts of a batch side by side")
    with beside(model, [tuned]) as lanes, told, lanes.at(Parts(0, (Part(0, 5, 5),))):
        model(IDS)
    model(IDS)


def test_draws_go_on_where_they_were():
    torch.manual_seed(3)
    expected = torch.rand(4)
    draws = Draws(3, torch.device("cpu"))
    outer = torch.get_rng_state()
    with draws:
        first = torch.rand(2)
    assert torch.equal(torch.get_rng_state(), outer)
    torch.rand(9)
    with draws:
        second = torch.rand(2)
    assert torch.equal(torch.cat([first, second]), expected)
