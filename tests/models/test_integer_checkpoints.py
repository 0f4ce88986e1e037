"""Checkpoints of GPTQ, AWQ and compressed-tensors, against the dense weights that they stand for."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from tests import bases
from tests.models.packed_by_hand import Form, write_packed
from tunewise.models.load import load_base
from tunewise.models.quantise import dequantise, dequantised_weight, packed_weights

IDS = torch.tensor([[5, 9, 33, 20, 7, 41, 3], [8, 8, 60, 12, 50, 6, 11]])
FORMS = (
    Form("gptq"), Form("gptq", symmetric=False, act_order=True), Form("gptq", symmetric=False, version="gptq_v2"),
    Form("gptq", 8), Form("gptq", 2, symmetric=False), Form("gptq", 3, symmetric=False, act_order=True),
    Form("gptq", 3, version="gptq_v2"), Form("awq", symmetric=False), Form("compressed-tensors"),
    Form("compressed-tensors", 8, symmetric=False), Form("compressed-tensors", symmetric=False, act_order=True),
)  # fmt: skip


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_weights_and_answers_are_those_of_the_dense_model(form, tmp_path):
    dense = write_packed(tmp_path, form)
    base = load_base(str(tmp_path), "float32")
    assert base.quantise == form.by
    packed = packed_weights(base.model)
    assert len(packed) == 14
    for name, module in packed.items():
        assert module.weight.dtype == torch.uint8
        assert torch.equal(dequantised_weight(module).double(), dense[name]), name
    plain = LlamaForCausalLM(base.model.config)
    plain.load_state_dict({name: tensor.float() for name, tensor in dense.items()})
    wanted = bases.logits(plain.eval(), IDS)
    torch.testing.assert_close(bases.logits(base.model, IDS), wanted, rtol=1e-4, atol=1e-5)
    assert torch.equal(bases.logits(dequantise(copy.deepcopy(base.model)), IDS), wanted)
