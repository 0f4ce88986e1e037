"""Checkpoints of GPTQ, AWQ and compressed-tensors, against the dense weights that they stand for."""

import copy
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests import bases
from tests.cli.command import tunewise
from tests.methods.promises import assert_detached_is_the_base, randomise
from tests.models.packed_by_hand import Form, pack_folder, packed
from tests.small_base import QUICK, write_base, write_place
from tunewise.engine.dequantised import forwards
from tunewise.engine.fused import fused
from tunewise.engine.native.build import library
from tunewise.errors import UserError
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.methods.store import load_adapter, read_card, save_adapter
from tunewise.models import codes
from tunewise.models.fingerprint import checksums, of_model
from tunewise.models.heads import TaskHead
from tunewise.models.integer_checkpoints import check
from tunewise.models.integer_formats import read
from tunewise.models.load import load_base, original
from tunewise.models.packed_integers import IntegerLinear, Integers, codes_of, weight_of
from tunewise.models.quantise import dequantise, dequantised_weight, pack, packed_weights, scales
from tunewise.models.weights import bytes_at_rest
from tunewise.run import build_recipe, run
from tunewise.run.estimate import plan

IDS = torch.tensor([[5, 9, 33, 20, 7, 41, 3], [8, 8, 60, 12, 50, 6, 11]])
FORMS = (
    Form("gptq"), Form("gptq", symmetric=False, act_order=True), Form("gptq", symmetric=False, version="gptq_v2"),
    Form("gptq", 8), Form("gptq", 2, symmetric=False), Form("gptq", 3, symmetric=False, act_order=True),
    Form("gptq", 3, version="gptq_v2"), Form("awq", symmetric=False), Form("compressed-tensors"),
    Form("compressed-tensors", 8, symmetric=False), Form("compressed-tensors", symmetric=False, act_order=True),
)  # fmt: skip
HARDEST = FORMS[1]
METHODS = (
    {"name": "lora", "rank": 4, "roles": ["all"]}, {"name": "dora"}, {"name": "ia3"}, {"name": "bitfit", "add": True},
    {"name": "bottleneck"}, {"name": "prompt_tuning", "virtual_tokens": 2}, {"name": "norms"}, {"name": "head"},
    {"name": "prefix_tuning", "virtual_tokens": 2},
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = write_base(tmp_path_factory.mktemp("packed") / "base")
    pack_folder(found, HARDEST)
    return str(found)


def dense_model(folder, config, weights):
    """By transformers, in float32, of these weights alone."""
    config = copy.deepcopy(config)
    del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config)
    absent, _ = plain.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, strict=False)
    assert set(absent) <= {"lm_head.weight"}  # of a tied one
    return plain.eval()


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_weights_and_answers_are_those_of_the_dense_model(form, tmp_path):
    dense = pack_folder(write_base(tmp_path), form)
    base = load_base(str(tmp_path), "float32")
    assert base.quantise == form.by
    layers = packed_weights(base.model)
    assert len(layers) == 14
    for name, module in layers.items():
        assert module.weight.dtype == torch.uint8
        assert module.weight.numel() == dense[name].numel() // (1 if form.bits == 8 else 2)
        assert torch.equal(dequantised_weight(module).double(), dense[name]), name
    wanted = bases.logits(dense_model(tmp_path, base.model.config, dense), IDS)
    torch.testing.assert_close(bases.logits(base.model, IDS), wanted, rtol=1e-4, atol=1e-5)
    if library() is not None:
        assert [layer for layer, _ in forwards(base.model)] == ([] if form.bits == 8 else list(layers.values()))
        with fused(base.model):
            torch.testing.assert_close(bases.logits(base.model, IDS), wanted, rtol=1e-4, atol=1e-5)
    assert torch.equal(bases.logits(dequantise(base.model), IDS), wanted)
    assert not packed_weights(base.model)


def test_transposed_layers_and_pieces_of_rows(tmp_path, monkeypatch):
    """GPT-2's; and no more than a few rows of a weight at a time, of which none is lost."""
    monkeypatch.setattr(codes, "PIECE", 100)
    shutil.copytree(bases.checkpoint("gpt2"), tmp_path / "gpt2")
    dense = pack_folder(tmp_path / "gpt2", HARDEST)
    write_base(tmp_path / "other")
    for file in (tmp_path / "other").glob("tokenizer*"):
        shutil.copy(file, tmp_path / "gpt2")
    base = load_base(str(tmp_path / "gpt2"), "float32")
    assert len(packed_weights(base.model)) == 4 * bases.LAYERS
    wanted = bases.logits(dense_model(tmp_path, base.model.config, dense), IDS)
    torch.testing.assert_close(bases.logits(base.model, IDS), wanted, rtol=1e-4, atol=1e-5)
    dequantise(base.model).save_pretrained(tmp_path / "dense")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "dense").eval()
    assert torch.equal(bases.logits(again, IDS), wanted)


def test_zeros_that_were_not_packed_and_rows_of_one_group():
    """As earlier releases of compressed-tensors left them; and an odd row, whose codes do not lie two in a byte."""
    form, weight = FORMS[9], torch.randn(8, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    parts, dense = packed(weight.numpy(), form)
    whole = read(parts, 8, 32, form.config)
    parts["weight_zero_point"] = (whole.zeros.int() - 128).to(torch.int8)
    again = read(parts, 8, 32, form.config)
    assert torch.equal(again.zeros, whole.zeros)
    assert torch.equal(weight_of(IntegerLinear(again, None, torch.float32)).double(), dense)
    codes, scales = torch.arange(14, dtype=torch.uint8).view(2, 7), torch.tensor([[0.5], [2.0]])
    zeros = torch.tensor([[1], [8]], dtype=torch.uint8)
    layer = IntegerLinear(Integers(codes, scales, zeros, torch.zeros(7).long(), 4), None, torch.float32)
    assert torch.equal(weight_of(layer), (codes.float() - zeros) * scales)
    assert codes_of(layer) is None


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method["name"])
def test_methods_act_and_save_as_on_the_dense_weights(folder, method, tmp_path):
    base = load_base(folder, "float32")
    found = []
    for model in (base.model, dequantise(load_base(folder, "float32").model)):
        tuned = attach(model, parse_method(method))
        randomise(tuned)
        tuned.model.train()
        scores = bases.logits(model, IDS, tuned.prefix_ids)
        scores.square().mean().backward()
        found.append((scores.detach(), {name: p.grad for name, p in tuned.trainable.items()}, tuned))
    (scores, gradients, tuned), (dense_scores, dense_gradients, _) = found
    torch.testing.assert_close(scores, dense_scores, rtol=1e-4, atol=1e-4)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, dense_gradients[name], rtol=1e-3, atol=1e-5)
    save_adapter(tuned, tmp_path / "adapter")
    assert read_card(tmp_path / "adapter")["base"]["quantise"] == "gptq"
    again = load_adapter(load_base(folder, "float32").model, tmp_path / "adapter")
    tuned.model.eval()
    assert torch.equal(
        bases.logits(again.model, IDS, again.prefix_ids), bases.logits(tuned.model, IDS, tuned.prefix_ids)
    )
    assert_detached_is_the_base(again.detach(), parse_method(method))


def test_the_base_is_told_by_its_numbers_and_never_in_float16(folder):
    base, again = load_base(folder), load_base(folder, "float16")
    assert base.dtype == again.dtype
    assert base.dtype in (torch.bfloat16, torch.float32)
    assert base.fingerprint == load_base(folder, "float32").fingerprint
    module = packed_weights(base.model)["model.layers.1.mlp.down_proj.weight"]
    assert dequantised_weight(module).dtype == base.dtype
    before, named = checksums(base.model), of_model(base.model)
    for part in (module.weight, module.get_buffer("scales"), module.get_buffer("zeros"), module.get_buffer("order")):
        part[0] += 1
        assert checksums(base.model) != before
        assert of_model(base.model) != named
        part[0] -= 1
    classifier = load_base(folder, "float32", head=TaskHead("classes", ("bad", "good")))
    assert classifier.new_parameters == ("score.weight",)
    assert len(packed_weights(classifier.model)) == 14


def test_what_cannot_be_done_with_packed_numbers_is_refused(folder):
    base = load_base(folder, "float32")
    with pytest.raises(UserError, match="quantise=nf4, and this checkpoint is stored in gptq"):
        load_base(folder, "float32", quantise="nf4")
    with pytest.raises(UserError, match="a quantised weight is made of codes"):
        attach(base.model, parse_method("full"))
    module = next(iter(packed_weights(base.model).values()))
    with pytest.raises(UserError, match="is not packed anew"):
        pack(module, dequantised_weight(module))
    with pytest.raises(UserError, match="it came quantised"):
        original(base.model)
    with pytest.raises(ValueError, match="not serializable"):
        base.model.save_pretrained(folder)


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"quant_method": "gptq", "checkpoint_format": "marlin"}, "its checkpoint_format is 'marlin'"),
        ({"quant_method": "awq", "version": "gemv"}, "its version is 'gemv'"),
        ({"quant_method": "compressed-tensors", "format": "float-quantized"}, "its format is 'float-quantized'"),
        (
            {**Form("compressed-tensors").config, "config_groups": {"0": {"input_activations": {"num_bits": 8}}}},
            "what enters its layers is quantised too",
        ),
        ({**Form("compressed-tensors").config, "transform_config": {"R1": {}}}, "turns what enters"),
    ],
)
def test_other_layouts_are_refused_with_what_is_read(told, reason):
    with pytest.raises(UserError, match=reason) as caught:
        check(told)
    assert "quantise=nf4" in caught.value.hint


def test_files_that_do_not_go_with_the_model_are_refused(tmp_path):
    pack_folder(write_base(tmp_path), Form("gptq"))
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.0.mlp.up_proj"
    spoilt = (
        ({f"{name}.scales": tensors[f"{name}.scales"][:, :8].clone()}, "its shapes do not go together"),
        ({f"{name}.g_idx": tensors[f"{name}.g_idx"] - 1}, "not every input has a group"),
        ({f"{name}.g_idx": tensors[f"{name}.g_idx"] * 0}, "groups are of unlike sizes"),
        ({f"{name}.qweight": tensors[f"{name}.qweight"][:2].clone()}, r"cannot be made of .*qweight \(2, 64\)"),
        ({f"{name}.qweight": tensors[f"{name}.qweight"].repeat(3, 1)}, "its codes have 12 bits"),
        ({f"{name}.scales": tensors[f"{name}.scales"].double()}, "is stored as F64"),
        ({"model.layers.0.mlp.experts.3.up_proj.qweight": torch.ones(4, 64).int()}, "no linear layer of that name"),
    )
    for change, reason in spoilt:
        save_file(tensors | change, file)
        with pytest.raises(UserError, match=reason):
            load_base(str(tmp_path), "float32")
    for lost in ("qzeros", "qweight"):
        save_file({key: tensor for key, tensor in tensors.items() if key != f"{name}.{lost}"}, file)
        with pytest.raises(UserError, match=lost):
            load_base(str(tmp_path), "float32")


@pytest.mark.parametrize("form", [FORMS[0], FORMS[9]], ids=str)
def test_the_planner_knows_the_bytes_of_such_a_base(form, tmp_path):
    """To the byte: scales and zeros, and all that a dense base of the same shape takes beside its weights."""
    beside = []
    for name in ("dense", "packed"):
        write_base(tmp_path / name)
        if name == "packed":
            pack_folder(tmp_path / name, form)
        base = load_base(str(tmp_path / name), "float32")
        memory = plan(str(tmp_path / name), ["lora"], device="cpu", overrides={"dtype": "float32"}).methods[0].memory
        beside.append(memory.weights + memory.constants - bytes_at_rest(base.model))
    assert memory.constants == sum(scale.nbytes for _, scale in scales(base.model)) > 0
    assert beside[0] == beside[1] > 0
    with pytest.raises(UserError, match=f"quantise=nf4, and this checkpoint is stored in {form.by}"):
        plan(str(tmp_path / "packed"), ["lora"], device="cpu", quantise="nf4")


def test_a_run_passes_its_proofs_and_its_adapter_is_merged_by_a_route(tmp_path):
    place = write_place(tmp_path / "place")
    pack_folder(place / "base", Form("awq", symmetric=False))
    fields = {"model": str(place / "base"), "data": str(place / "reviews.csv"), "method": "lora"}
    metrics = run(build_recipe(fields, QUICK), tmp_path / "run", prove=False)
    assert all(proof["passed"] for proof in metrics["proofs"].values())
    refused = tunewise("adapter", "merge", tmp_path / "run")
    assert (refused.code, "is quantised (awq): nothing was merged" in refused.err) == (2, True)
    merged = tunewise("adapter", "merge", tmp_path / "run", "--route", "dequantised", "--out", tmp_path / "merged")
    assert merged.code == 0, merged.err
    told = json.loads((tmp_path / "merged" / "config.json").read_text("utf-8"))
    assert "quantization_config" not in told
    assert not packed_weights(load_base(str(tmp_path / "merged")).model)
