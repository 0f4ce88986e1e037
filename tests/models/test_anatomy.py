"""The anatomy finds every site of every family, and a slice of a fused module is the matrix it says it is."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests import bases
from tunewise.errors import UserError
from tunewise.models import families
from tunewise.models.anatomy import read_anatomy
from tunewise.models.families import FAMILIES
from tunewise.models.weights import dense_weight, set_dense_weight

FUSED = ("phi3", "gpt2", "gpt_neox")
IDS = torch.tensor([[5, 9, 33, 20]])


@pytest.mark.parametrize("family", bases.CONFIGS)
def test_every_linear_weight_of_a_layer_is_in_exactly_one_whole_site(family):
    model = bases.build(family)
    anatomy = read_anatomy(model)
    whole = [site.module for site in anatomy.find(["all"])]
    assert len(whole) == len(set(whole)) >= 4 * bases.LAYERS
    matrices = {
        name.removesuffix(".weight")
        for name, parameter in model.named_parameters()
        if parameter.dim() == 2 and name.startswith(anatomy.layers) and "relative_attention_bias" not in name
    }
    assert set(whole) == matrices
    assert {"q", "k", "v", "o", "up", "down"} <= set(anatomy.roles)
    stacks = 2 if anatomy.kind == families.ENCODER_DECODER else 1
    assert (anatomy.n_layers, anatomy.d_model) == (stacks * bases.LAYERS, bases.WIDTH)
    assert anatomy.vocab_size == (0 if anatomy.kind == families.VISION else bases.VOCABULARY)
    relative = family in ("t5", "t5_gated", "mt5") or anatomy.kind == families.VISION
    assert anatomy.context_length == (None if relative else 64)
    assert bool(anatomy.task_head) == family.endswith(("_classes", "_tokens", "_images")) == (anatomy.head is None)
    assert len(anatomy.norms) >= 2 * bases.LAYERS + 1


@pytest.mark.parametrize("family", FUSED)
def test_the_value_slice_is_what_attention_averages(family):
    model = bases.build(family)
    anatomy = read_anatomy(model)
    mixed = []
    for site in anatomy.find(["o"]):
        model.get_submodule(site.module).register_forward_pre_hook(lambda module, args: mixed.append(args[0]))
    for site in anatomy.find(["v"]):
        weight, bias = dense_weight(model, site)
        set_dense_weight(model, site, torch.zeros_like(weight), None if bias is None else torch.ones_like(bias))
    model(IDS, use_cache=False)
    # every value is the bias alone (1, or 0 where there is none), and so is any average of values
    expected = 1.0 if anatomy.find(["v"])[0].has_bias else 0.0
    assert len(mixed) == anatomy.n_layers
    for value in mixed:
        torch.testing.assert_close(value, torch.full_like(value, expected))


@pytest.mark.parametrize("family", FUSED)
def test_without_the_query_slice_attention_is_uniform(family):
    model = bases.build(family)
    model.set_attn_implementation("eager")
    uniform = torch.tril(torch.ones(4, 4, dtype=torch.float64)) / torch.arange(1, 5, dtype=torch.float64)[:, None]
    attention = model(IDS, use_cache=False, output_attentions=True).attentions
    assert (attention[0][0, 0] - uniform).abs().max() > 1e-3
    for site in read_anatomy(model).find(["q"]):
        weight, bias = dense_weight(model, site)
        set_dense_weight(model, site, torch.zeros_like(weight), None if bias is None else torch.zeros_like(bias))
    for layer in model(IDS, use_cache=False, output_attentions=True).attentions:
        torch.testing.assert_close(layer, uniform.expand_as(layer))


@pytest.mark.parametrize("family", bases.CONFIGS)
def test_dense_weight_round_trip(family):
    model = bases.build(family)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    anatomy = read_anatomy(model)
    for site in anatomy.sites:
        weight, bias = dense_weight(model, site)
        assert weight.shape == (site.d_out, site.d_in)
        assert (bias is not None) == site.has_bias
        set_dense_weight(model, site, weight, bias)
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name])
        set_dense_weight(model, site, weight + 1)
        torch.testing.assert_close(dense_weight(model, site)[0], weight + 1)
        set_dense_weight(model, site, weight)
    assert len(anatomy.sites) >= 12


@pytest.mark.parametrize("family", bases.CONFIGS)
def test_dense_weight_acts_as_the_site_does(family):
    model = bases.build(family)
    anatomy = read_anatomy(model)
    for site in anatomy.sites:
        x = torch.randn(3, site.d_in, dtype=torch.float64)
        weight, bias = dense_weight(model, site)
        expected = x @ weight.T + (0 if bias is None else bias)
        torch.testing.assert_close(site.read(model.get_submodule(site.module)(x)), expected)


def test_both_stacks_and_the_attention_over_the_encoder_have_sites():
    anatomy = read_anatomy(bases.build("t5_gated"))
    assert [site.name for site in anatomy.find(["q"])] == [
        "layers.0.q", "layers.1.q", "layers.2.q", "layers.2.cross_q", "layers.3.q", "layers.3.cross_q",
    ]  # fmt: skip
    assert anatomy.layers[2] == "decoder.block.0"
    assert [site.layer for site in anatomy.find(["v"], [-1])] == [3, 3]


def test_every_row_of_the_table_has_a_small_model():
    known = {read_anatomy(bases.build(family)).model_type for family in (*bases.CONFIGS, *bases.MIXTURES)}
    assert set(FAMILIES) - known == {"gemma3"}  # its text part is gemma3_text


def test_a_model_without_a_head_is_refused():
    with pytest.raises(UserError, match=r"BertModel.* has no layers at bert.encoder.layer") as caught:
        read_anatomy(bases.build("bert_classes").base_model)
    assert "AutoModelForSequenceClassification" in caught.value.hint


def test_a_slice_is_written_out_of_place():
    site = next(site for site in read_anatomy(bases.build("gpt_neox")).sites if site.role == "k")
    y = torch.randn(2, 5, 3 * bases.WIDTH)
    kept = y.clone()
    part = torch.randn(2, 5, bases.WIDTH)
    written = site.write(y, part)
    assert torch.equal(y, kept)
    assert torch.equal(site.read(written), part)
    assert (written != y).sum() == part.numel()


def test_roles_and_layers_that_are_not_there_are_named():
    anatomy = read_anatomy(bases.build("gpt2"))
    with pytest.raises(UserError, match="no role of a gpt2 model named 'gate'") as caught:
        anatomy.find(["gate"])
    assert "qkv" in caught.value.hint
    with pytest.raises(UserError, match="layer 2 does not exist: this base has 2"):
        anatomy.find(["q"], [2])
    assert {site.layer for site in anatomy.find(["q"], [-1])} == {1}


def test_an_unknown_family_with_usual_names_is_inferred(caplog):
    config = AutoConfig.for_model("olmo2", **bases.CONFIGS["llama"])
    assert "olmo2" not in FAMILIES
    anatomy = read_anatomy(AutoModelForCausalLM.from_config(config))
    assert {"q", "k", "v", "o", "gate", "up", "down"} == set(anatomy.roles)
    assert "olmo2" in caplog.text
    assert "inferred" in caplog.text


def test_an_unknown_family_with_unusual_names_is_refused_with_the_row_to_write():
    config = AutoConfig.for_model("bloom", vocab_size=64, hidden_size=32, n_layer=2, n_head=4)
    with pytest.raises(UserError, match="in no row of the anatomy") as caught:
        read_anatomy(AutoModelForCausalLM.from_config(config))
    for part in ("families.py", '"bloom"', 'layers="transformer.h"', "self_attention.query_key_value"):
        assert part in caught.value.hint
