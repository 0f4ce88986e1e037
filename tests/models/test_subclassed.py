"""Checkpoints of torchao: with a tensor subclass of the same protocol everywhere, with torchao itself where it is."""

import copy
import importlib.util

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from tests import bases
from tests.methods.promises import assert_detached_is_the_base
from tests.small_base import write_base
from tunewise.errors import UserError
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.methods.store import load_adapter, read_card, save_adapter
from tunewise.models.fingerprint import of_model
from tunewise.models.load import load_base
from tunewise.models.quantise import (
    dequantise,
    dequantised_weight,
    format_of,
    format_of_checkpoint,
    keep_layout,
    loading,
    pack,
    packed_weights,
)
from tunewise.training.proofs import checksums

IDS = torch.tensor([[5, 9, 33, 20, 7, 41, 3], [8, 8, 60, 12, 50, 6, 11]])
CONFIG = {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig"}}}
METHODS = ("lora", "dora", "ia3", "bottleneck", "prompt_tuning", "prefix_tuning", "norms")
needs_torchao = pytest.mark.skipif(not importlib.util.find_spec("torchao"), reason="torchao is not installed")


class Rows(torch.Tensor):
    """int8 codes with a scale a row, by the protocol of torchao's classes."""

    @staticmethod
    def __new__(cls, codes, scale):
        return torch.Tensor._make_wrapper_subclass(cls, codes.shape, dtype=torch.float32)

    def __init__(self, codes, scale):
        self.codes, self.scale = codes, scale

    def __tensor_flatten__(self):
        return ["codes", "scale"], None

    @classmethod
    def __tensor_unflatten__(cls, parts, context, size, stride):
        return cls(parts["codes"], parts["scale"])

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        assert function is torch.ops.aten.detach.default, f"{function} is none of what it can"
        return cls(args[0].codes, args[0].scale)

    def dequantize(self):
        assert self.codes.dtype == torch.int8
        return self.codes.float() * self.scale


def packed_model():
    """The small llama with such weights, as a library would load it; and a dense one with what they stand for."""
    model, dense = bases.build("llama", torch.float32), bases.build("llama", torch.float32)
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and path != "lm_head":
            scale = module.weight.detach().abs().amax(1, keepdim=True) / 127
            rows = Rows((module.weight.detach() / scale).round().to(torch.int8), scale)
            module.weight = nn.Parameter(rows, requires_grad=False)
            dense.get_submodule(path).weight.data = rows.dequantize()
    model.config.quantization_config = CONFIG
    return model, dense


def test_parts_are_kept_compared_and_dequantised():
    model, dense = packed_model()
    names = packed_weights(model).keys()
    keep_layout(model)
    assert packed_weights(model).keys() == names
    assert len(names) == 7 * bases.LAYERS
    assert format_of(model) == "torchao"
    assert torch.equal(bases.logits(model, IDS), bases.logits(dense, IDS))
    for name, module in packed_weights(model).items():
        assert model.get_parameter(name).dtype == torch.int8
        assert torch.equal(dequantised_weight(module), dense.get_parameter(name))
    before, named = checksums(model), of_model(model)
    module.get_buffer("scale")[0] *= 2
    assert checksums(model) != before
    assert of_model(model) != named
    module.get_buffer("scale")[0] /= 2
    assert torch.equal(bases.logits(dequantise(copy.deepcopy(model)), IDS), bases.logits(dense, IDS))
    with pytest.raises(UserError, match="not packed anew"):
        pack(module, dequantised_weight(module))


@pytest.mark.parametrize("name", METHODS)
def test_methods_act_as_on_the_weights_that_the_parts_stand_for(name, tmp_path):
    found = []
    for model in packed_model():
        tuned = attach(model, parse_method(name))
        scores = bases.logits(model, IDS, tuned.prefix_ids)
        scores.square().mean().backward()
        found.append((scores.detach(), {key: p.grad for key, p in tuned.trainable.items()}, tuned))
    assert torch.equal(found[0][0], found[1][0])
    for key, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][key], rtol=1e-5, atol=1e-7)
    save_adapter(found[0][2], tmp_path / "adapter")
    assert read_card(tmp_path / "adapter")["base"]["quantise"] == "torchao"
    model, _ = packed_model()
    keep_layout(model)
    load_adapter(model, tmp_path / "adapter").detach()
    assert_detached_is_the_base(model, parse_method(name))


def test_packed_weights_are_not_trained_and_the_library_is_asked_for():
    model, _ = packed_model()
    with pytest.raises(UserError, match="a quantised weight is made of codes"):
        attach(model, parse_method("full"))
    if not importlib.util.find_spec("torchao"):
        with pytest.raises(UserError, match="this checkpoint needs torchao") as caught:
            loading(model.config, "", torch.float32, torch.device("cpu"))
        assert caught.value.hint == "pip install torchao accelerate"
    with pytest.raises(UserError, match="quantise=nf4, and this checkpoint is stored in torchao"):
        loading(model.config, "nf4", torch.float32, torch.device("cpu"))


@pytest.mark.parametrize(
    "told",
    [
        {"quant_method": "fp8"},
        {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8DynamicActivationInt8WeightConfig"}}},
        {**CONFIG, "include_input_output_embeddings": True},
    ],
)
def test_what_others_wrote_is_refused_with_what_is_read(told):
    model = bases.build("llama", torch.float32)
    model.config.quantization_config = told
    with pytest.raises(UserError, match="what bitsandbytes, GPTQ and AWQ wrote is read, and what torchao") as caught:
        format_of_checkpoint(model.config)
    assert "quantise=nf4" in caught.value.hint


@needs_torchao
@pytest.mark.parametrize("form", ["int8", "int4"])
def test_a_checkpoint_of_torchao_answers_as_by_torchao(form, tmp_path):
    from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig
    from torchao.quantization.granularity import PerGroup
    from transformers import TorchAoConfig

    in_groups = IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(32))
    config = TorchAoConfig(Int8WeightOnlyConfig() if form == "int8" else in_groups)
    folder = write_base(tmp_path / "base")
    where = {"dtype": torch.float32, "device_map": {"": "cpu"}}
    theirs = AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, **where)
    theirs.save_pretrained(tmp_path / "stored")
    for file in folder.glob("tokenizer*"):
        (tmp_path / "stored" / file.name).write_bytes(file.read_bytes())
    base, again = (load_base(str(tmp_path / "stored"), "float32") for _ in range(2))
    assert base.quantise == "torchao"
    assert base.fingerprint == again.fingerprint
    torch.testing.assert_close(bases.logits(base.model, IDS), bases.logits(theirs, IDS), rtol=1e-4, atol=1e-4)
    tuned = attach(base.model, parse_method({"name": "lora", "rank": 4}))
    bases.logits(base.model, IDS).square().mean().backward()
    assert all(p.grad is not None for p in tuned.trainable.values())
    save_adapter(tuned, tmp_path / "adapter")
    loaded = load_adapter(again.model, tmp_path / "adapter")
    assert torch.equal(bases.logits(loaded.model, IDS), bases.logits(tuned.model, IDS))
