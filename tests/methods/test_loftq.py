"""LoftQ's start against a float64 SVD of what quantisation lost, and what it is good for."""

import pytest
import torch

from tests import bases
from tunewise.errors import UserError
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.methods.store import load_adapter, save_adapter
from tunewise.models.quantise import dequantise
from tunewise.models.weights import frozen_weight

IDS = torch.tensor([[5, 9, 33, 20, 7, 41, 3], [8, 8, 60, 12, 50, 6, 11]])
ROLES = {"llama": ("q", "v", "down"), "gpt2": ("q", "v", "down"), "phi3": ("qkv", "o", "down")}


@pytest.mark.parametrize("family", ROLES)
@pytest.mark.parametrize("scaling", [{}, {"alpha": 3.0, "rslora": True}], ids=["alpha/r", "rslora"])
def test_the_start_is_the_best_of_its_rank_at_what_quantisation_lost(family, scaling):
    plain = bases.build(family, torch.float32)
    fields = {"name": "lora", "rank": 4, "roles": ROLES[family], "init": "loftq", **scaling}
    tuned = attach(bases.quantised("nf4", family), parse_method(fields))
    assert len(tuned.deltas) == 3 * bases.LAYERS
    for name, delta in tuned.deltas.items():
        weight, _ = frozen_weight(plain, tuned.site(name))
        stored, _ = frozen_weight(tuned.model, tuned.site(name))
        lost = weight.double() - stored.double()
        u, s, v = torch.linalg.svd(lost, full_matrices=False)
        product = delta.product().detach().double()
        torch.testing.assert_close(product, (u[:, :4] * s[:4]) @ v[:4], rtol=0, atol=1e-5)
        torch.testing.assert_close((lost - product).norm(), s[4:].norm(), rtol=1e-5, atol=0)
        assert (lost - product).norm() < 0.95 * lost.norm()
        torch.testing.assert_close(delta.lora_A.norm(), delta.lora_B.norm())


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_of_full_rank_it_gives_the_original_back(method):
    """The adapter then holds all that was lost: base and adapter answer as the full-precision base does."""
    fields = {"name": method, "rank": bases.WIDTH, "roles": ["all"], "init": "loftq"}
    tuned = attach(bases.quantised("nf4"), parse_method(fields))
    wanted = bases.logits(bases.build("llama", torch.float32), IDS)
    torch.testing.assert_close(bases.logits(tuned.model, IDS), wanted, rtol=0, atol=1e-3)
    tuned.off()
    assert (bases.logits(tuned.model, IDS) - wanted).abs().max() > 0.1


def test_where_nothing_was_lost_it_starts_as_ever():
    """The head is not quantised: A is random and B zero, or no gradient would ever reach either."""
    tuned = attach(
        bases.quantised("nf4"), parse_method({"name": "lora", "rank": 2, "roles": ["head", "v"], "init": "loftq"})
    )
    assert tuned.deltas["head"].lora_A.any()
    assert not tuned.deltas["head"].lora_B.any()
    assert tuned.deltas["layers.0.v"].lora_B.any()


def test_what_is_saved_is_a_plain_lora_and_needs_no_original(tmp_path):
    tuned = attach(bases.quantised("nf4"), parse_method({"name": "lora", "rank": 4, "init": "loftq"}))
    save_adapter(tuned, tmp_path / "adapter")
    model = bases.quantised("nf4")
    model.config._name_or_path = "gone"
    fresh = load_adapter(model, tmp_path / "adapter")
    assert torch.equal(bases.logits(fresh.model, IDS), bases.logits(tuned.model, IDS))


@pytest.mark.parametrize("model", [lambda: bases.build("llama"), lambda: dequantise(bases.quantised("nf4"))])
def test_on_a_base_that_lost_nothing_it_is_refused(model):
    with pytest.raises(UserError, match="this base is not quantised") as caught:
        attach(model(), parse_method({"name": "lora", "init": "loftq"}))
    assert "quantise=nf4" in caught.value.hint
