"""Loading a base in 4 or 8 bits: what its sites hand out, what it keeps, and what is refused."""

import importlib.util

import pytest
import torch

from tests import bases
from tests.small_base import write_base, write_encoder
from tunewise.errors import UserError
from tunewise.methods import METHODS
from tunewise.methods.attach import attach
from tunewise.methods.reparam.lora import LoRA
from tunewise.models import nf4
from tunewise.models.anatomy import read_anatomy
from tunewise.models.fingerprint import of_model
from tunewise.models.heads import TaskHead
from tunewise.models.load import load_base, original
from tunewise.models.quantise import FORMATS, dequantise, format_of, is_quantised, packed_weights
from tunewise.models.weights import dense_weight, frozen_weight, set_dense_weight
from tunewise.training.proofs import checksums

IDS = torch.tensor([[5, 9, 33, 20, 7, 41, 3], [8, 8, 60, 12, 50, 6, 11]])
# biases, tied ends, transposed layers, slices of fused ones, layers that stay in float32
FAMILIES = ("llama", "llama_tied", "qwen2", "qwen3", "phi3", "gpt2", "gpt_neox", "opt", "bert_classes", "t5_gated")
LARGEST_ERROR = {"nf4": 0.11, "fp4": 0.15, "int8": 0.02}  # ‖W − Q‖ / ‖W‖


@pytest.fixture
def folder(tmp_path):
    return str(write_base(tmp_path / "base"))


@pytest.mark.parametrize("form", FORMATS)
def test_a_base_is_loaded_quantised_and_the_same_each_time(folder, form):
    base, again = (load_base(folder, "float32", quantise=form) for _ in range(2))
    assert base.quantise == format_of(base.model) == form
    assert base.dtype == torch.float32
    assert base.fingerprint == again.fingerprint
    assert len(packed_weights(base.model)) == len(base.anatomy.sites)
    assert checksums(base.model) == checksums(again.model)
    with torch.no_grad():
        assert torch.equal(base.model(IDS).logits, again.model(IDS).logits)
    plain = load_base(folder, "float32")
    assert plain.quantise == ""
    assert len({base.fingerprint, plain.fingerprint}) == 2
    for site in base.anatomy.sites:
        weight, _ = dense_weight(base.model, site)
        wanted, _ = dense_weight(plain.model, site)
        assert weight.dtype == torch.float32
        assert (weight - wanted).norm() < LARGEST_ERROR[form] * wanted.norm()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("form", ["nf4", "int8"])
def test_sites_and_their_weights_are_those_of_the_dense_base(family, form):
    model, plain = bases.quantised(form, family), bases.build(family, torch.float32)
    assert read_anatomy(model) == read_anatomy(plain)
    n_packed = 0
    for site in read_anatomy(model).linear:
        weight, bias = frozen_weight(model, site)
        wanted, wanted_bias = frozen_weight(plain, site)
        assert weight.shape == (site.d_out, site.d_in)
        assert (bias is None) == (wanted_bias is None)
        assert bias is None or torch.equal(bias, wanted_bias)
        n_packed += is_quantised(model.get_submodule(site.module))
        assert (weight - wanted).norm() <= LARGEST_ERROR[form] * wanted.norm(), site.name
    assert n_packed >= 4 * bases.LAYERS


def test_the_dequantised_weight_is_the_definition_of_nf4_where_rows_end_inside_a_block():
    """Rows of 32, blocks of 64: bitsandbytes' own kernel for such rows is wrong on some CPUs, and is not used."""
    model, plain = bases.quantised("nf4"), bases.build("llama", torch.float32)
    for site in read_anatomy(model).sites:
        assert site.d_in % nf4.BLOCK
        wanted = nf4.dequantise(nf4.quantise(frozen_weight(plain, site)[0]))
        torch.testing.assert_close(frozen_weight(model, site)[0], wanted, rtol=0, atol=1e-3)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_a_quantised_base_answers_as_its_dequantised_weights_do(family):
    model = bases.quantised("nf4", family)
    answered = bases.logits(model, IDS)
    dense = dequantise(bases.quantised("nf4", family))
    assert not packed_weights(dense)
    assert format_of(dense) == ""
    torch.testing.assert_close(bases.logits(dense, IDS), answered, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", FORMATS)
def test_an_evaluation_moves_no_bit_and_a_step_can_follow(form):
    model = bases.quantised(form).eval()
    before, name = checksums(model), of_model(model)
    for _ in range(2):
        with torch.no_grad():
            model(IDS)
        assert checksums(model) == before
        assert of_model(model) == name
    tuned = attach(model, LoRA(rank=2))
    with torch.no_grad():
        model(IDS)
    model(IDS).logits.square().mean().backward()
    assert all(p.grad is not None for p in tuned.trainable.values())


def test_a_changed_scale_is_a_moved_weight():
    model = bases.quantised("nf4")
    before, name = checksums(model), of_model(model)
    next(iter(packed_weights(model).values())).weight.quant_state.absmax[0] += 1
    assert checksums(model) != before
    assert of_model(model) != name


@pytest.mark.parametrize("form", FORMATS)
def test_existing_biases_of_packed_layers_are_trained_and_get_the_dense_gradient(form):
    """In a batch of several rows, too."""
    found = []
    for model in (bases.quantised(form, "qwen2"), dequantise(bases.quantised(form, "qwen2"))):
        tuned = attach(model.train(), METHODS["bitfit"]())
        assert len(tuned.trainable) == 3 * bases.LAYERS
        model(IDS).logits.square().mean().backward()
        found.append({name: p.grad for name, p in tuned.trainable.items()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("form", FORMATS)
def test_a_checkpoint_that_bitsandbytes_wrote_is_recognised(folder, tmp_path, form):
    base = load_base(folder, "float32", quantise=form)
    stored = tmp_path / "stored"
    base.model.save_pretrained(stored)
    base.tokenizer.save_pretrained(stored)
    again = load_base(str(stored), "float32")
    assert again.quantise == form
    assert again.fingerprint == load_base(str(stored), "float32", quantise=form).fingerprint == base.fingerprint
    with torch.no_grad():
        assert torch.equal(again.model(IDS).logits, base.model(IDS).logits)
    other = "nf4" if form == "int8" else "int8"
    with pytest.raises(UserError, match=f"quantise={other}, and this checkpoint is stored in {form}"):
        load_base(str(stored), "float32", quantise=other)
    with pytest.raises(UserError, match="are not to be had"):
        original(again.model)


def test_the_original_is_read_again_from_where_it_came(folder):
    found = original(load_base(folder, "float32", quantise="nf4").model)
    plain = load_base(folder, "float32").model
    for name, parameter in plain.named_parameters():
        assert torch.equal(found.get_parameter(name), parameter)


@pytest.mark.parametrize("form", ["nf4", "int8"])
def test_a_classifier_on_top_stays_dense_and_can_be_trained(tmp_path, form):
    """transformers would pack one that has a bias, and fail on one that the checkpoint does not hold."""
    head = TaskHead("classes", ("a", "b", "c"))
    base = load_base(str(write_encoder(tmp_path / "encoder")), "float32", head=head, quantise=form)
    assert len(packed_weights(base.model)) == len(base.anatomy.sites) + 1  # and the pooler
    tuned = attach(base.model.train(), LoRA(rank=2))
    base.model(IDS).logits.square().mean().backward()
    assert tuned.trainable["base.classifier.weight"].grad.norm() > 0
    found = original(base.model)
    assert found.classifier.weight.shape == (3, 32)
    assert list(found.config.id2label.values()) == ["a", "b", "c"]
    plain = load_base(str(tmp_path / "encoder"), "float32", head=head).model
    assert all(torch.equal(found.get_parameter(name), p) for name, p in plain.named_parameters() if "bert." in name)


def test_nothing_is_written_to_a_packed_weight():
    model = bases.quantised("nf4")
    site, before = read_anatomy(model).sites[0], checksums(model)
    with pytest.raises(UserError, match="is quantised") as caught:
        set_dense_weight(model, site, torch.zeros(site.d_out, site.d_in))
    assert "--route dequantised" in caught.value.hint
    assert checksums(model) == before


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"quantise": "nf5"}, "'nf5'"),
        ({"quantise": "nf4", "dtype": "float64"}, "not in float64"),
    ],
)
def test_what_cannot_be_is_refused(folder, fields, message):
    with pytest.raises(UserError, match=message):
        load_base(folder, **fields)


def test_without_bitsandbytes_it_says_what_to_install(folder, monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else there(name))
    with pytest.raises(UserError, match="quantise=int8 needs bitsandbytes") as caught:
        load_base(folder, "float32", quantise="int8")
    assert caught.value.hint == "pip install 'tunewise[quant]'"
