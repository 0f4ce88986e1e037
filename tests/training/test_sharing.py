"""The cost model of lanes: who shares, how many, and what is said of it."""

import pytest
import torch

from tests import bases
from tunewise.engine.trunk import read_trunk
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.training import sharing
from tunewise.training.sharing import FILLS_CPU, FORWARD, LARGEST, Demand, demand, share, threads_of


@pytest.fixture
def model():
    """As large as it has to be for 500 tokens to fill two threads."""
    model = bases.build("llama", torch.float32)
    n_body = sum(parameter.numel() for parameter in model.parameters()) - model.get_input_embeddings().weight.numel()
    model.tokens_that_fill = FILLS_CPU / n_body * torch.get_num_threads() / 2
    return model


@pytest.mark.parametrize(
    ("method", "lowest", "own_share"),
    [
        ("lora", 0, 0.0),
        ({"name": "lora", "layers": [-1]}, 1, 0.0),
        ({"name": "lora", "roles": ["head"]}, 2, 0.0),
        ("full", 0, 1.0),
        ({"name": "top_layers", "layers": 1}, 1, None),
        ("head", 2, None),
        ({"name": "norms", "final": False}, 0, None),
        ({"name": "prompt_tuning", "virtual_tokens": 3}, 0, 0.0),
    ],
)
def test_how_deep_the_backward_goes(model, method, lowest, own_share):
    found = demand(model, parse_method(method), 100.0)
    assert found.lowest == lowest
    assert found.tokens == 100.0
    assert own_share is None or found.own_share == own_share
    assert 0 <= found.own_share <= 1


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert_classes"])
@pytest.mark.parametrize(
    "method",
    [
        "lora",
        {"name": "lora", "layers": [-1]},
        {"name": "top_layers", "layers": 1},
        "head",
        {"name": "bottleneck", "bottleneck": 4, "layers": [-1]},
        {"name": "prompt_tuning", "virtual_tokens": 3},
    ],
)
def test_the_lowest_layer_is_where_the_trunk_ends(family, method):
    """What the plan tells from names alone, against what a forward of the attached model shows."""
    model = bases.build(family, torch.float32)
    found = demand(model, parse_method(method), 100.0)
    tuned = attach(model, parse_method(method))
    trunk, reason = read_trunk(tuned, lambda: model(input_ids=torch.tensor([[5, 6, 7]])))
    assert found.lowest == (trunk.n_layers if trunk else 0), reason


def test_runs_that_fill_the_machine_go_one_by_one(model):
    fills = model.tokens_that_fill
    found = share([Demand(fills, 0, 0.0)] * 3, model)
    assert found.groups == ()
    assert all(reason.startswith(f"one by one: {fills:.0f} tokens a batch fill") for reason in found.reasons.values())


def test_small_runs_of_one_depth_share(model):
    fills = model.tokens_that_fill
    demands = [Demand(0.4 * fills, lowest, 0.0) for lowest in (0, 1, 0, 0, 1, 2)] + [Demand(0.1 * fills, 0, 0.9)]
    found = share(demands, model)
    assert found.groups == ((0, 2, 3), (1, 4))
    assert found.reasons[0].startswith(f"3 runs in one batch of {1.2 * fills:.0f} tokens")
    assert found.reasons[5].startswith("one by one: no other run reaches down to layer 2")
    assert found.reasons[6].startswith("one by one: 90% of the base's weights are its own")


def test_several_workers_have_a_group_each(model):
    fills = 1.01 * model.tokens_that_fill * threads_of(2) / torch.get_num_threads()
    small = [Demand(0.1 * fills, 0, 0.0)] * 6
    assert [len(group) for group in share(small, model).groups] == [6]
    assert [len(group) for group in share(small, model, workers=2).groups] == [3, 3]
    assert share(small[:2], model, workers=2).groups == ()
    assert share([Demand(fills, 0, 0.0)] * 4, model, workers=2).groups == ()


def test_a_group_is_no_larger_than_pays_and_groups_are_alike(model):
    fills = model.tokens_that_fill
    found = share([Demand(0.9 * fills, 0, 0.0)] * 9, model)
    assert [len(group) for group in found.groups] == [3, 3, 3]
    assert sorted(number for group in found.groups for number in group) == list(range(9))
    assert all(len(group) * 0.9 <= LARGEST for group in found.groups)


def test_a_forward_alone_is_filled_by_more(model):
    """What fills a step fills no forward until it has more tokens; who trains the whole base shares none."""
    fills = model.tokens_that_fill
    demands = [Demand(times * fills, 0, 0.0) for times in (1.0, 1.5, FORWARD)] + [Demand(10.0, 0, 1.0)]
    assert share(demands, model).groups == ()
    found = share(demands, model, is_trained=False)
    assert found.groups == ((0, 1),)
    assert "fill this machine" in found.reasons[2]


def test_no_worker_has_more_threads_than_one_process_was_allowed(monkeypatch):
    monkeypatch.setattr(sharing, "n_cores", lambda: 16)
    for allowed, each_of_two, each_of_five in ((16, 8, 3), (4, 4, 3), (1, 1, 1)):
        monkeypatch.setattr(torch, "get_num_threads", lambda allowed=allowed: allowed)
        assert [threads_of(n) for n in (1, 2, 5, 40)] == [allowed, each_of_two, each_of_five, 1]
