"""The embedding and the head in int8: against the rounding written out in float64, tied or not, in every family, read
again from a checkpoint bit for bit, and with nothing of bitsandbytes."""

import copy
import importlib.util
from typing import get_args

import pytest
import torch

from tests import bases, more_bases
from tests.bytes_tokenizer import bytes_tokenizer
from tests.small_base import QUICK, write_base, write_encoder, write_place
from tunewise.errors import UserError
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.models import codes
from tunewise.models.anatomy import read_anatomy
from tunewise.models.codes import product_by_rows, widened
from tunewise.models.ends import EightBitEmbedding, EightBitEnd, EightBitHead, pack_ends, quantised
from tunewise.models.fingerprint import checksums
from tunewise.models.heads import TaskHead
from tunewise.models.load import load_base, original
from tunewise.models.quantise import (
    FORMATS,
    WITH_ENDS,
    dequantise,
    format_of,
    is_quantised,
    of_layers,
    pack,
    packed_weights,
)
from tunewise.models.weights import bytes_at_rest, dense_weight, frozen_weight, set_dense_weight
from tunewise.run import build_recipe, run
from tunewise.run.recipe import Recipe

IDS = torch.tensor([[5, 9, 33, 20, 7, 41, 3], [8, 8, 60, 12, 50, 6, 11]])
# tied or not, ends with a scale of their own, three embeddings that are one, a classifier in the head's place
FAMILIES = ("llama", "llama_tied", "gemma2", "gemma3_text", "gpt2", "opt", "t5", "mt5", "bart", "bert_classes")


def drawn(n, width, dtype=torch.float32):
    """Rows of unlike size, one of zeros."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(n, width, generator=generator) * torch.rand(n, 1, generator=generator) ** 8
    weight[3] = 0
    return weight.to(dtype)


def ends_of(model):
    return [module for module in model.modules() if isinstance(module, EightBitEnd)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_row_is_rounded_to_the_nearest_of_255_steps(dtype):
    weight = drawn(500, 33, dtype)
    found = quantised(weight)
    largest = weight.double().abs().amax(1, keepdim=True)
    assert found.codes.dtype == torch.int8
    torch.testing.assert_close(found.scales.double(), largest[:, 0], rtol=2**-17, atol=0)
    step = found.scales.double()[:, None] / 127
    nearest = (weight.double() / torch.where(step > 0, step, 1)).round()
    beside = (found.codes.double() - nearest).abs()
    assert beside.max() <= 1
    assert beside.mean() < 1e-4  # half way between two codes float32 may take the other one
    torch.testing.assert_close(found.codes.double() * step, weight.double(), rtol=0, atol=0.5001 * step.max().item())
    assert torch.equal(widened(found, dtype)[3], torch.zeros(33, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_packing_what_was_packed_changes_no_bit(dtype):
    first = quantised(drawn(50_000, 17, dtype))
    again = quantised(widened(first, dtype))
    assert torch.equal(again.codes, first.codes)
    assert torch.equal(again.scales, first.scales)


@pytest.mark.parametrize("form", ["nf4-ends8", "int8-ends8"])
@pytest.mark.parametrize("family", FAMILIES)
def test_sites_and_answers_are_those_of_the_dense_base_with_the_rounded_ends(form, family):
    model, plain = bases.quantised(form, family), bases.quantised(form.removesuffix("-ends8"), family)
    anatomy = read_anatomy(model)
    assert anatomy == read_anatomy(plain)
    assert format_of(model) == form
    sites = [site for site in (anatomy.embedding, anatomy.head) if site is not None]
    before = {site.module: frozen_weight(plain, site)[0].clone() for site in sites}
    for site in sites:
        assert is_quantised(model.get_submodule(site.module))
        (weight, _), wanted = dense_weight(model, site), before[site.module]
        assert torch.equal(weight, widened(quantised(wanted), torch.float32))
        assert 0 < (weight - wanted).norm() < 0.01 * wanted.norm()
        with torch.no_grad():
            plain.get_submodule(site.module).weight.copy_(weight)
    assert len({module.weight for module in ends_of(model)}) == len(
        {plain.get_submodule(s.module).weight for s in sites}
    )
    torch.testing.assert_close(bases.logits(model, IDS), bases.logits(plain, IDS), rtol=1e-5, atol=1e-5)
    dense = dequantise(copy.deepcopy(model))
    assert format_of(dense) == ""
    assert not ends_of(dense)
    assert read_anatomy(dense) == anatomy
    for site in sites:
        assert torch.equal(dense.get_submodule(site.module).weight, plain.get_submodule(site.module).weight)
    if form == "nf4-ends8":  # in evaluation int8 rounds what enters a layer
        torch.testing.assert_close(bases.logits(dense, IDS), bases.logits(model, IDS), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("rows", [7, 1000])
def test_a_product_in_pieces_is_the_dense_one_and_its_gradients(biased, rows, monkeypatch):
    monkeypatch.setattr(codes, "PIECE", 16 * rows)
    weight, generator = quantised(drawn(60, 16)), torch.Generator().manual_seed(1)
    x = torch.randn(2, 5, 16, generator=generator, dtype=torch.float64).requires_grad_()
    bias = torch.randn(60, generator=generator, dtype=torch.float64).requires_grad_() if biased else None
    outer = torch.randn(2, 5, 60, generator=generator, dtype=torch.float64)
    made = []

    def make(some):
        made.append(len(some.scales))
        return widened(some, torch.float64)

    y = product_by_rows(x, bias, weight, make)
    y.backward(outer)
    assert max(made) == min(rows, 60)
    assert sum(made) == 2 * 60
    dense = weight.codes.double() * (weight.scales * (1 / 127)).double()[:, None]
    wanted = x.detach() @ dense.T + (bias.detach() if biased else 0)
    torch.testing.assert_close(y.detach(), wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(x.grad, outer @ dense, rtol=0, atol=1e-12)
    if biased:
        torch.testing.assert_close(bias.grad, outer.sum((0, 1)), rtol=0, atol=1e-12)


def test_no_more_than_a_piece_of_a_head_is_dense_at_a_time(monkeypatch):
    monkeypatch.setattr(codes, "PIECE", 4 * bases.WIDTH)
    head, largest = ends_of(bases.quantised("nf4-ends8"))[1], []
    monkeypatch.setattr(
        "tunewise.models.ends.widened", lambda some, dtype: largest.append(some) or widened(some, dtype)
    )
    x = torch.randn(3, bases.WIDTH, generator=torch.Generator().manual_seed(0)).requires_grad_()
    head(x).square().sum().backward()
    assert isinstance(head, EightBitHead)
    assert {len(each.scales) for each in largest} == {4}
    assert len(largest) == 2 * bases.VOCABULARY // 4


def test_rows_are_looked_up_in_the_shape_of_the_ids_and_others_are_not_made(monkeypatch):
    model, looked_up = bases.quantised("nf4-ends8"), []
    embedding = model.get_input_embeddings()
    assert isinstance(embedding, EightBitEmbedding)
    every = embedding.codes()
    monkeypatch.setattr(
        "tunewise.models.ends.widened", lambda some, dtype: looked_up.append(some) or widened(some, dtype)
    )
    found = embedding(IDS)
    assert torch.equal(found, widened(every, torch.float32)[IDS])
    assert [each.codes.shape for each in looked_up] == [(IDS.numel(), bases.WIDTH)]


@pytest.mark.parametrize("family", ["llama", "llama_tied", "t5", "gemma3_text"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_checkpoint_is_read_again_bit_for_bit_and_by_transformers(family, dtype, tmp_path):
    model = bases.quantised("nf4-ends8", family, getattr(torch, dtype))
    model.save_pretrained(tmp_path / "stored")
    auto_class = bases.auto_class(family, model.config)
    plain = auto_class.from_pretrained(tmp_path / "stored")
    assert not ends_of(plain)
    again = copy.deepcopy(plain)
    pack_ends(again, again.dtype)
    for one, other in zip(ends_of(again), ends_of(model), strict=True):
        assert torch.equal(one.weight, other.weight)
        assert torch.equal(one.scales, other.scales)
    for site in (read_anatomy(model).embedding, read_anatomy(model).head):
        assert torch.equal(plain.get_submodule(site.module).weight, frozen_weight(model, site)[0])
    assert checksums(again) == checksums(model)


def test_a_base_is_loaded_stored_and_found_again(tmp_path):
    folder = str(write_base(tmp_path / "base"))
    base, four, plain = (load_base(folder, "bfloat16", quantise=form) for form in ("nf4-ends8", "nf4", ""))
    assert base.quantise == "nf4-ends8"
    assert len({base.fingerprint, four.fingerprint, plain.fingerprint}) == 3
    n_ends = 2 * base.anatomy.vocab_size
    assert bytes_at_rest(four.model) - bytes_at_rest(base.model) == n_ends * (2 * 32 - 32 - 4)
    base.model.save_pretrained(tmp_path / "stored")
    base.save_processor(tmp_path / "stored")
    again = load_base(str(tmp_path / "stored"), "bfloat16")
    assert (again.quantise, again.fingerprint) == ("nf4-ends8", base.fingerprint)
    ids = IDS[:, :5]
    with torch.no_grad():
        assert torch.equal(again.model(ids).logits, base.model(ids).logits)
    with pytest.raises(UserError, match="quantise=nf4, and this checkpoint is stored in nf4-ends8"):
        load_base(str(tmp_path / "stored"), quantise="nf4")
    four.model.save_pretrained(tmp_path / "four")
    four.save_processor(tmp_path / "four")
    on_top = load_base(str(tmp_path / "four"), "bfloat16", quantise="nf4-ends8")
    assert on_top.fingerprint == base.fingerprint
    found = original(base.model)
    assert all(torch.equal(found.get_parameter(name).bfloat16(), p) for name, p in plain.model.named_parameters())


@pytest.mark.parametrize(("family", "form"), [("marian", "int8-ends8"), ("codegen", "int8")])
def test_what_was_stored_in_8_bits_is_read_in_the_precision_that_is_asked_for(family, form, tmp_path):
    """Their layers have weights of norms and biases: transformers leaves the first of them as they were stored."""
    more_bases.build(family, torch.float32).save_pretrained(tmp_path / "plain")
    bytes_tokenizer().save_pretrained(tmp_path / "plain")
    told = {"decoder_input_ids": IDS[:, :5]} if family == "marian" else {}
    logits = {}
    for stored in ("float32", "bfloat16"):
        base = load_base(str(tmp_path / "plain"), stored, quantise=form)
        base.model.save_pretrained(tmp_path / stored)
        base.save_processor(tmp_path / stored)
        for wanted in ("float32", "bfloat16"):
            again = load_base(str(tmp_path / stored), wanted)
            kinds = {each.dtype for each in again.model.parameters() if each.is_floating_point()}
            assert (again.dtype, kinds) == (getattr(torch, wanted), {getattr(torch, wanted)})
            logits[stored, wanted] = again.model(IDS[:, :5], **told).logits.float()
    of_float = logits["float32", "float32"]
    assert all(float((other - of_float).abs().max()) < 0.2 * float(of_float.std()) for other in logits.values())


def test_without_bitsandbytes_too(tmp_path, monkeypatch):
    folder = str(write_base(tmp_path / "base"))
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else there(name))
    base = load_base(folder, "float32", quantise="nf4-ends8")
    assert len(ends_of(base.model)) == 2
    base.model.save_pretrained(tmp_path / "stored")
    base.save_processor(tmp_path / "stored")
    again = load_base(str(tmp_path / "stored"), "float32")
    assert (again.quantise, again.fingerprint) == ("nf4-ends8", base.fingerprint)
    dense = dequantise(copy.deepcopy(base.model))
    torch.testing.assert_close(dense(IDS).logits, base.model(IDS).logits, rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match="quantise=int8-ends8 needs bitsandbytes"):
        load_base(folder, "float32", quantise="int8-ends8")


def test_a_run_passes_its_proofs(tmp_path):
    """Packed training, and options that are scored."""
    place = write_place(tmp_path / "place")
    fields = {
        "model": str(place / "base"),
        "data": str(place / "reviews.csv"),
        "quantise": "nf4-ends8",
        "method": "lora",
    }
    metrics = run(build_recipe(fields, QUICK), tmp_path / "run", prove=False)
    assert all(proof["passed"] for proof in metrics["proofs"].values())


def test_a_classifier_stays_dense_and_the_embedding_is_packed(tmp_path):
    head = TaskHead("classes", ("a", "b", "c"))
    base = load_base(str(write_encoder(tmp_path / "encoder")), "float32", head=head, quantise="nf4-ends8")
    assert [type(end) for end in ends_of(base.model)] == [EightBitEmbedding]
    tuned = attach(base.model.train(), parse_method("lora"))
    base.model(IDS).logits.square().mean().backward()
    assert tuned.trainable["base.classifier.weight"].grad.norm() > 0


def test_a_tied_head_learns_a_change_of_its_own():
    model = bases.quantised("nf4-ends8", "llama_tied")
    before = checksums(model)
    tuned = attach(model, parse_method("head"))
    model(IDS).logits.square().mean().backward()
    assert [p.grad is not None for p in tuned.trainable.values()] == [True]
    assert tuned.detach() is model
    assert checksums(model) == before


def test_a_prompt_begins_with_rows_of_the_rounded_embedding():
    model = bases.quantised("nf4-ends8")
    tuned = attach(model, parse_method({"name": "prompt_tuning", "virtual_tokens": 4, "init": "vocabulary"}))
    rows = widened(model.get_input_embeddings().codes(), torch.float32)
    (prompt,) = tuned.trainable.values()
    assert all((rows == each).all(1).any() for each in prompt.detach())


def test_what_cannot_be_is_refused(tmp_path):
    model = bases.quantised("nf4-ends8")
    site = read_anatomy(model).head
    with pytest.raises(UserError, match=r"lm_head is quantised"):
        set_dense_weight(model, site, torch.zeros(site.d_out, site.d_in))
    with pytest.raises(UserError, match="not packed anew"):
        pack(model.get_submodule(site.module), torch.zeros(site.d_out, site.d_in))
    with pytest.raises(UserError, match="a vit model has no embedding and head"):
        pack_ends(bases.build("vit_images", torch.float32), torch.float32)
    with pytest.raises(UserError, match="'nf4-ends4'"):
        load_base(str(write_base(tmp_path / "base")), quantise="nf4-ends4")


def test_a_recipe_takes_every_format():
    assert get_args(Recipe.model_fields["quantise"].annotation) == ("", *FORMATS, *WITH_ENDS)
    assert set(map(of_layers, WITH_ENDS)) == set(FORMATS)


def test_what_is_packed_names_both_ends():
    names = packed_weights(bases.quantised("nf4-ends8")).keys()
    assert {"model.embed_tokens.weight", "lm_head.weight"} <= names
    assert len(names) == 7 * bases.LAYERS + 2
