"""What quantisation loses weight by weight, against the definition on the codebook, and the bytes of the checkpoint."""

import pytest
import torch
from safetensors.torch import load_file

from tests import bases
from tunewise.models import nf4
from tunewise.models.anatomy import read_anatomy
from tunewise.models.quantisation_error import kept_dense, packed_bytes, weight_errors
from tunewise.models.quantise import packed_weights
from tunewise.models.weights import bytes_at_rest, frozen_weight

ERRORS = {"nf4": (0.08, 0.11), "fp4": (0.10, 0.15), "int8": (0.003, 0.02)}
"""What ‖W − Q‖ / ‖W‖ is of normal weights, about."""


def errors(form, family="llama"):
    model, plain = bases.quantised(form, family), bases.build(family, torch.float32)
    return list(weight_errors(plain, model, read_anatomy(plain))), model, plain


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert_classes", "t5_gated"])
@pytest.mark.parametrize("form", ERRORS)
def test_every_packed_weight_is_told_with_its_place(form, family):
    found, model, plain = errors(form, family)
    assert {f"{each.module}.weight" for each in found} == packed_weights(model).keys()
    low, high = ERRORS[form]
    for each in found:
        assert low < each.relative < high, each
        assert 0 < each.largest < each.norm
    anatomy = read_anatomy(plain)
    kept = kept_dense(model)
    whole = [site for site in anatomy.sites if not site.is_slice and site.module not in kept]
    assert len(whole) >= 4 * bases.LAYERS
    assert any(name.endswith("wo") for name in kept) == (family == "t5_gated")  # which transformers keeps in float32
    by_module = {each.module: each for each in found}
    for site in whole:
        told = by_module[site.module]
        assert (told.layer, told.shape) == (site.layer, (site.d_out, site.d_in))
        assert told.role == site.name.rpartition(".")[2]
    others = [each for each in found if each.module not in {site.module for site in whole}]
    assert [each.role for each in others] == ([] if family != "bert_classes" else ["pooler.dense", "classifier"])
    assert all(each.layer is None for each in others)


@pytest.mark.parametrize(("family", "roles"), [("llama", ["embedding", "head"]), ("llama_tied", ["embedding"])])
def test_ends_in_8_bits_are_told_and_tied_ones_once(family, roles):
    found, model, _ = errors("nf4-ends8", family)
    ends = [each for each in found if each.layer is None]
    assert [each.role for each in ends] == roles
    for each in ends:
        assert each.relative < ERRORS["int8"][1]
        assert each.bytes_after == bases.VOCABULARY * (bases.WIDTH + 4) < each.bytes_before
    assert len(found) == 7 * bases.LAYERS + len(roles)
    assert kept_dense(model) == {}


def test_the_error_is_that_of_the_codebook_written_out():
    """On layers whose rows end inside a block, too; norms in float64."""
    found, _, plain = errors("nf4")
    for each, site in zip(found, read_anatomy(plain).sites, strict=True):
        weight = frozen_weight(plain, site)[0]
        change = (nf4.dequantise(nf4.quantise(weight)) - weight).double()
        assert each.relative == pytest.approx(float(change.norm() / weight.double().norm()), rel=1e-3)
        assert each.largest == pytest.approx(float(change.abs().max()), rel=1e-2)
        assert each.norm == pytest.approx(float(weight.double().norm()), rel=1e-6)
        assert each.bytes_before == 4 * weight.numel()


@pytest.mark.parametrize("form", ERRORS)
def test_bytes_are_those_of_the_checkpoint(form, tmp_path):
    found, model, plain = errors(form)
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    for each in found:
        own = [
            tensor
            for name, tensor in stored.items()
            if name.startswith((f"{each.module}.weight", f"{each.module}.SCB"))
        ]
        assert each.bytes_after == sum(tensor.numel() * tensor.element_size() for tensor in own)
        assert each.bytes_after == packed_bytes(model.get_submodule(each.module)) < each.bytes_before
    assert bytes_at_rest(plain) == sum(4 * parameter.numel() for parameter in plain.parameters())
    kept = kept_dense(model)
    assert kept.keys() == {"model.embed_tokens", "lm_head"}
    assert list(kept.values()) == [4 * stored[f"{name}.weight"].numel() for name in kept]
    saved = bytes_at_rest(plain) - bytes_at_rest(model)
    assert 0 <= saved - sum(each.bytes_before - each.bytes_after for each in found) < 2048 * len(found)
