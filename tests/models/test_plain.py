"""NF4 without bitsandbytes: its codes and its checkpoints bit for bit, and what stands on such a base."""

import copy
import importlib.util
import json

import pytest
import torch
from safetensors.torch import save_file

from tests import bases
from tests.methods.promises import assert_detached_is_the_base
from tests.small_base import QUICK, write_base, write_place
from tunewise.errors import UserError
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.methods.store import load_adapter, save_adapter
from tunewise.models import plain
from tunewise.models.load import load_base, load_config, original
from tunewise.models.quantise import dequantise, dequantised_weight, loading, pack, packed_weights
from tunewise.run import build_recipe, run
from tunewise.training.proofs import checksums

IDS = torch.tensor([[5, 9, 33, 20, 7, 41, 3], [8, 8, 60, 12, 50, 6, 11]])
METHODS = (
    {"name": "lora", "rank": 4, "init": "loftq"}, {"name": "dora"}, {"name": "ia3"}, {"name": "bitfit", "add": True},
    {"name": "bottleneck"}, {"name": "prompt_tuning", "virtual_tokens": 2}, {"name": "norms"},
    {"name": "prefix_tuning", "virtual_tokens": 2},
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(write_base(tmp_path_factory.mktemp("plain") / "base"))


@pytest.fixture
def without(monkeypatch):
    """As where the extra is not installed."""
    there = importlib.util.find_spec
    gone = ("bitsandbytes", "accelerate")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in gone else there(name))
    return monkeypatch


@pytest.fixture
def both(folder, request):
    """The base on bitsandbytes' layers, and on plain ones."""
    with_library = load_base(folder, "float32", quantise="nf4")
    request.getfixturevalue("without")
    return with_library, load_base(folder, "float32", quantise="nf4")


def test_codes_and_weights_are_those_of_bitsandbytes_bit_for_bit(both):
    theirs, ours = both
    assert ours.quantise == "nf4"
    assert not any("bitsandbytes" in type(module).__module__ for module in ours.model.modules())
    assert packed_weights(ours.model).keys() == packed_weights(theirs.model).keys() != set()
    for name, module in packed_weights(ours.model).items():
        assert torch.equal(module.weight, theirs.model.get_parameter(name))
        assert torch.equal(dequantised_weight(module), dequantised_weight(packed_weights(theirs.model)[name]))
    assert ours.fingerprint == theirs.fingerprint
    assert checksums(ours.model) == checksums(theirs.model)
    assert torch.equal(bases.logits(ours.model, IDS), bases.logits(theirs.model, IDS))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_checkpoint_of_either_is_read_by_the_other(folder, tmp_path, request, dtype):
    theirs = load_base(folder, dtype, quantise="nf4")
    theirs.model.save_pretrained(tmp_path / "theirs")
    theirs.save_processor(tmp_path / "theirs")
    wanted = bases.logits(theirs.model, IDS)
    monkeypatch = request.getfixturevalue("without")
    ours = load_base(folder, dtype, quantise="nf4")
    ours.model.save_pretrained(tmp_path / "ours")
    ours.save_processor(tmp_path / "ours")
    read = load_base(str(tmp_path / "theirs"), dtype)
    assert (read.quantise, read.fingerprint) == ("nf4", theirs.fingerprint)
    assert isinstance(next(iter(packed_weights(read.model).values())), plain.NF4Linear)
    assert torch.equal(bases.logits(read.model, IDS), wanted)
    with pytest.raises(UserError, match="it came quantised"):
        original(read.model)
    monkeypatch.undo()
    back = load_base(str(tmp_path / "ours"), dtype)
    assert not isinstance(next(iter(packed_weights(back.model).values())), plain.NF4Linear)
    assert back.fingerprint == ours.fingerprint
    assert torch.equal(bases.logits(back.model, IDS), bases.logits(ours.model, IDS))


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method["name"])
def test_methods_act_and_save_there_as_on_bitsandbytes_layers(both, method, tmp_path):
    theirs, ours = both
    found = []
    for base in (ours, theirs):
        tuned = attach(base.model, parse_method(method))
        tuned.model.train()
        scores = bases.logits(tuned.model, IDS, tuned.prefix_ids)
        scores.square().mean().backward()
        found.append((scores.detach(), {name: p.grad for name, p in tuned.trainable.items()}, tuned))
    assert torch.equal(found[0][0], found[1][0])
    for name, gradient in found[0][1].items():
        assert torch.equal(gradient, found[1][1][name]), name
    save_adapter(found[0][2], tmp_path / "adapter")
    found[1][2].detach()
    load_adapter(theirs.model, tmp_path / "adapter").detach()
    found[0][2].detach()
    assert_detached_is_the_base(ours.model, parse_method(method))


def test_it_is_dequantised_and_packed_anew(both):
    theirs, ours = both
    dense, same = dequantise(copy.deepcopy(ours.model)), dequantise(copy.deepcopy(theirs.model))
    assert not packed_weights(dense)
    assert "quantization_config" not in dense.config.to_dict()
    torch.testing.assert_close(bases.logits(dense, IDS), bases.logits(same, IDS), rtol=0, atol=0)
    for base in both:
        module = next(iter(packed_weights(base.model).values()))
        pack(module, torch.randn(module.out_features, module.in_features, generator=torch.Generator().manual_seed(0)))
    assert checksums(ours.model) == checksums(theirs.model)


@pytest.mark.parametrize("family", ["gpt2", "t5_gated", "bert_classes", "phi3", "opt"])
def test_the_same_layers_are_packed_as_by_transformers(family):
    """Transposed and fused ones, those that stay in float32, and heads that stay plain."""
    model = bases.build(family, torch.float32)
    plain.pack_layers(model)
    wanted = packed_weights(bases.quantised("nf4", family))
    assert packed_weights(model).keys() == wanted.keys()
    for name, module in packed_weights(model).items():
        assert torch.equal(dequantised_weight(module), dequantised_weight(wanted[name]))


@pytest.mark.parametrize("form", ["nf4", "int8", "plain"])
def test_what_was_dequantised_is_read_again_where_weights_lie_transposed(form, tmp_path):
    if form == "plain":
        model = bases.build("gpt2", torch.float32)
        plain.pack_layers(model)
    else:
        model = bases.quantised(form, "gpt2")
    dense = dequantise(model)
    dense.save_pretrained(tmp_path)
    again = type(dense).from_pretrained(tmp_path).eval()
    assert torch.equal(bases.logits(again, IDS), bases.logits(dense, IDS))
    assert [type(module) for module in again.modules()] == [type(module) for module in dense.modules()]


def test_a_run_passes_its_proofs(without, tmp_path):
    place = write_place(tmp_path / "place")
    fields = {"model": str(place / "base"), "data": str(place / "reviews.csv"), "dtype": "float32", "quantise": "nf4"}
    metrics = run(build_recipe(fields | {"method": "lora"}, QUICK), tmp_path / "run", prove=False)
    assert all(proof["passed"] for proof in metrics["proofs"].values())


def test_on_a_gpu_the_library_is_asked_for(folder, without):
    with pytest.raises(UserError, match="quantise=nf4 needs bitsandbytes and accelerate"):
        loading(load_config(folder), "nf4", torch.float32, torch.device("cuda"))


def test_other_blocks_are_refused(folder, tmp_path, without):
    layer = next(iter(packed_weights(load_base(folder, "float32", quantise="nf4").model).values()))
    tensors = {f"layer.{name}": tensor for name, tensor in layer.state_dict().items()}
    told = json.loads(bytes(tensors[f"layer.{plain.STATE}"].tolist())) | {"blocksize": 128}
    tensors[f"layer.{plain.STATE}"] = torch.tensor(list(json.dumps(told).encode()), dtype=torch.uint8)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="in other blocks than 64 and 256") as caught:
        plain.read(tmp_path)
    assert caught.value.hint == "pip install 'tunewise[quant]'"
