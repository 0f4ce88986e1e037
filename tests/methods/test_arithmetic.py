"""Sums and factors of changes: peft's merge functions and plain SVD as the oracles."""

import pytest
import torch
from peft.utils import merge_utils

from tests import bases
from tunewise.errors import UserError
from tunewise.methods import parse_method
from tunewise.methods.arithmetic import change_of, combine, extract_lora
from tunewise.methods.attach import Tuned, attach
from tunewise.methods.base import CannotFold

IDS = torch.tensor([[5, 9, 33, 20, 7]])


def tuned_by(method: dict | str, seed: int = 1, family: str = "llama") -> Tuned:
    tuned = attach(bases.build(family), parse_method(method))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in tuned.trainable.values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return tuned


def logits_with(change, family: str = "llama") -> torch.Tensor:
    """The base with ΔW added to its weights by hand."""
    model = bases.build(family)
    sites = {site.name: site for site in attach(model, parse_method("frozen")).anatomy.linear}
    with torch.no_grad():
        for name, delta in change.items():
            weight = model.get_submodule(sites[name].module).weight
            weight.add_(delta if weight.shape == delta.shape and family != "gpt2" else delta.T)
        return model(IDS).logits


@pytest.mark.parametrize(
    ("family", "method"),
    [
        ("llama", {"name": "lora", "rank": 3}),
        ("gpt2", {"name": "lora", "rank": 3, "roles": ["qkv", "down"]}),
        ("llama", {"name": "dora", "rank": 3}),
        ("llama", {"name": "oft", "block_size": 8}),
        ("llama", {"name": "intrinsic", "dimension": 40}),
    ],
)
def test_the_change_added_to_the_base_is_the_tuned_model(family, method):
    tuned = tuned_by(method, family=family)
    change = change_of(tuned)
    assert set(change) == set(tuned.deltas)
    tuned.scale = 0.3
    assert all(torch.equal(change_of(tuned)[name], delta) for name, delta in change.items()), "λ does not matter"
    tuned.on()
    torch.testing.assert_close(logits_with(change, family), tuned.model(IDS).logits, rtol=0, atol=1e-9)


def test_a_change_of_selected_weights_and_what_is_none():
    model = bases.build("llama")
    tuned = attach(model, parse_method("full"))
    with torch.no_grad():
        for name in ("model.layers.0.self_attn.q_proj.weight", "model.layers.1.self_attn.q_proj.weight"):
            model.get_parameter(name).add_(0.1 * torch.randn(32, 32, generator=torch.Generator().manual_seed(0)))
    change = {name: delta for name, delta in change_of(tuned).items() if delta.any()}
    assert sorted(change) == ["layers.0.q", "layers.1.q"]
    torch.testing.assert_close(logits_with(change), model(IDS).logits, rtol=0, atol=1e-5)
    with torch.no_grad():
        model.model.norm.weight.add_(0.1)
    with pytest.raises(UserError, match=r"changes model\.norm\.weight, which is no weight of a linear site"):
        change_of(tuned)
    with pytest.raises(CannotFold):
        change_of(tuned_by({"name": "bottleneck", "bottleneck": 3}))


def test_sums_are_pefts():
    changes = [change_of(tuned_by({"name": "lora", "rank": 3}, seed)) for seed in (1, 2, 3)]
    weights = [0.7, 0.2, 0.4]
    parts = [change["layers.0.q"] for change in changes]
    tensor = torch.tensor(weights, dtype=torch.float64)
    linear = combine(changes, weights)["layers.0.q"]
    torch.testing.assert_close(linear, merge_utils.task_arithmetic(parts, tensor), rtol=0, atol=1e-12)
    found = combine(changes, weights, "ties", density=0.3)["layers.0.q"]
    torch.testing.assert_close(found, merge_utils.ties(parts, tensor, 0.3), rtol=0, atol=1e-12)
    assert not torch.equal(found, linear)
    mean = combine(changes)["layers.1.v"]
    torch.testing.assert_close(mean, sum(change["layers.1.v"] for change in changes) / 3, rtol=0, atol=1e-12)


@pytest.mark.parametrize("how", ["dare", "dare_ties"])
def test_dare_keeps_the_mean(how):
    changes = [change_of(tuned_by({"name": "lora", "rank": 3}, seed)) for seed in (1, 2)]
    draws = [combine(changes[:1], [1.0], how, density=0.25, seed=seed)["layers.0.q"] for seed in range(400)]
    part = changes[0]["layers.0.q"]
    share = torch.stack([draw != 0 for draw in draws]).double().mean()
    assert float(share) == pytest.approx(0.25, abs=0.01)
    assert float((torch.stack(draws).mean(0) - part).norm() / part.norm()) < 0.15
    kept = draws[0] != 0
    torch.testing.assert_close(draws[0][kept], 4 * part[kept])
    assert torch.equal(draws[0], combine(changes[:1], [1.0], how, density=0.25, seed=0)["layers.0.q"])


def test_a_sum_of_loras_is_a_lora_of_the_summed_rank():
    changes = [change_of(tuned_by({"name": "lora", "rank": 3}, seed)) for seed in (1, 2)]
    total = combine(changes, [1.0, -0.5])
    tuned = attach(bases.build("llama"), parse_method("frozen"))
    found = extract_lora(total, 6, tuned.anatomy)
    tuned.detach()
    assert max(found.errors.values()) < 1e-12
    extracted = attach(tuned.model, found.method)
    extracted.load_state(found.state)
    torch.testing.assert_close(extracted.model(IDS).logits, logits_with(total), rtol=0, atol=1e-9)


def test_a_lower_rank_is_the_best_there_is_and_says_what_it_misses():
    change = change_of(tuned_by({"name": "lora", "rank": 6}))
    anatomy = attach(bases.build("llama"), parse_method("frozen")).anatomy
    found = extract_lora(change, 2, anatomy)
    for name, delta in change.items():
        site = next(site for site in anatomy.sites if site.name == name)
        product = found.method.scaling_at(site) * (
            found.state[f"delta.{name}.lora_B"] @ found.state[f"delta.{name}.lora_A"]
        )
        values = torch.linalg.svdvals(delta)
        best = float(values[2:].norm() / values.norm())
        assert float((delta - product).norm() / delta.norm()) == pytest.approx(best, rel=1e-6)
        assert found.errors[name] == pytest.approx(best, rel=1e-6)
        assert best > 0.1


def test_what_cannot_be_combined_is_named():
    change = change_of(tuned_by({"name": "lora", "rank": 3}))
    with pytest.raises(UserError, match="1 weights for 2 adapters"):
        combine([change, change], [1.0])
    with pytest.raises(UserError, match="density=0"):
        combine([change], how="ties", density=0.0)
    anatomy = attach(bases.build("llama"), parse_method("frozen")).anatomy
    with pytest.raises(UserError, match="different roles in different layers"):
        extract_lora({name: delta for name, delta in change.items() if name != "layers.1.v"}, 2, anatomy)
