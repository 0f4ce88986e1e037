"""Mixtures of experts: what is a site in one, what is not, and the weights of an expert as those that it acts with."""

import pytest
import torch
from transformers import MixtralConfig, MixtralForCausalLM

from tests import bases
from tests.bytes_tokenizer import VOCABULARY
from tests.small_base import write_base
from tunewise.errors import UserError
from tunewise.models.anatomy import read_anatomy
from tunewise.models.load import load_base
from tunewise.models.weights import dense_weight, set_dense_weight


@pytest.mark.parametrize("family", bases.MIXTURES)
def test_every_weight_of_a_layer_but_the_routers_is_in_exactly_one_site(family):
    model = bases.build(family)
    anatomy = read_anatomy(model)
    held = [site for site in anatomy.sites if site.is_linear or site.n_experts]
    weights = [f"{site.module}.{site.parameter}" for site in held]
    matrices = {
        name
        for name, parameter in model.named_parameters()
        if parameter.dim() > 1 and name.startswith(anatomy.layers) and not name.endswith("_bias")
    }
    left_out = {name for name in matrices if "router" in name or "mlp.gate." in name or "shared_expert_gate" in name}
    assert sorted(weights) == sorted(matrices - left_out)
    assert len(left_out) == len(anatomy.mixtures) * (2 if family == "qwen2_moe" else 1)
    assert (anatomy.n_layers, anatomy.d_model, len(anatomy.keys)) == (bases.LAYERS, bases.WIDTH, bases.LAYERS)


def test_a_shared_expert_and_a_dense_layer_have_the_roles_that_others_have():
    anatomy = read_anatomy(bases.build("qwen2_moe"))
    assert [site.module for site in anatomy.find(["up"])] == [
        "model.layers.0.mlp.up_proj", "model.layers.1.mlp.shared_expert.up_proj",
    ]  # fmt: skip
    assert [site.name for site in anatomy.mixtures] == ["layers.1.mixture"]
    # behind a feed-forward part: the dense one's last matrix, or all that the mixture says, its shared expert within
    assert [site.name for site in anatomy.find(["down"], mixtures=True)] == ["layers.0.down", "layers.1.mixture"]
    assert {site.role for site in anatomy.find(["experts"], experts=True)} == {"experts_gate_up", "experts_down"}


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss"])
def test_an_expert_acts_with_its_weights(family):
    """Which are written the other way round in gpt_oss, beside biases of their own."""
    model = bases.build(family)
    anatomy = read_anatomy(model)
    into, out_of = anatomy.find(["experts"], [0], experts=True)
    module = model.get_submodule(into.module)
    x, expert = torch.randn(5, bases.WIDTH, dtype=torch.float64), 2
    places = torch.full((5, 1), expert)
    found = module(x, places, torch.ones(5, 1, dtype=torch.float64))
    for site in (into, out_of):
        weight, bias = dense_weight(model, site)
        assert weight.shape == (4, site.d_out, site.d_in)
        assert bias is None
        own = vars(module)["_parameters"].get(f"{site.parameter}_bias")
        x = x @ weight[expert].T + (0 if own is None else own[expert])
        x = module._apply_gate(x) if site is into else x
    torch.testing.assert_close(found, x)


@pytest.mark.parametrize("family", bases.MIXTURES)
def test_the_weights_of_experts_are_read_and_written(family):
    model = bases.build(family)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for site in read_anatomy(model).find(["experts"], experts=True):
        weight, _ = dense_weight(model, site)
        set_dense_weight(model, site, weight + 1)
        changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
        assert changed == [f"{site.module}.{site.parameter}"]
        torch.testing.assert_close(dense_weight(model, site)[0], weight + 1)
        set_dense_weight(model, site, weight)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_roles_that_experts_stand_in_the_place_of_are_told_with_what_to_type():
    anatomy = read_anatomy(bases.build("mixtral"))
    with pytest.raises(UserError, match="a mixtral base has no 'down': its feed-forward parts are experts") as caught:
        anatomy.find(["q", "down"])
    assert "method.roles=[q,v]" in caught.value.hint
    assert "roles=experts" in caught.value.hint
    with pytest.raises(UserError, match="'experts' are the fused weights of experts, on which lora alone acts"):
        anatomy.find(["experts"])
    with pytest.raises(UserError, match="no role of a mixtral model named 'qq'"):
        anatomy.find(["qq"])
    assert {site.role for site in anatomy.find(["all"])} == {"q", "k", "v", "o"}
    llama = read_anatomy(bases.build("llama"))
    with pytest.raises(UserError, match="no role of a llama model named 'experts'"):
        llama.find(["experts"], experts=True)


def test_in_float64_experts_run_one_after_another(tmp_path):
    """torch's grouped product knows no float64."""
    folder = write_base(tmp_path / "base")
    fields = {**bases.MIXTURES["mixtral"], "vocab_size": VOCABULARY}
    with torch.random.fork_rng(devices=[]):
        MixtralForCausalLM(MixtralConfig(**fields)).save_pretrained(folder)
    ids = torch.tensor([[5, 9, 33, 20, 7]])
    wide, narrow = (load_base(str(folder), dtype).model(ids).logits for dtype in ("float64", "float32"))
    assert wide.dtype is torch.float64
    torch.testing.assert_close(wide.float(), narrow, rtol=1e-5, atol=1e-5)
