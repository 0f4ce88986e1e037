"""Counts on the meta device against published figures, without any weights."""

import json

import pytest
import torch

from tests import more_bases
from tunewise.errors import UserError
from tunewise.methods import parse_method
from tunewise.planning.parameters import ParameterPlan, count_on, defaults_on
from tunewise.planning.shell import shell_of


def plan(model: str, methods=()) -> list[ParameterPlan]:
    """One plan for each method, or for every method at its defaults."""
    shell = shell_of(model)
    return [count_on(shell, method) for method in map(parse_method, methods)] or [
        count_on(shell, method) for method in defaults_on(shell)
    ]


def folder_with(tmp_path, config: dict) -> str:
    (tmp_path / "config.json").write_text(json.dumps(config))
    return str(tmp_path)


@pytest.fixture
def llama_2_7b(tmp_path):
    shape = {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32}
    return folder_with(tmp_path, {"model_type": "llama", "num_attention_heads": 32, "torch_dtype": "bfloat16", **shape})


def test_lora_on_llama_2_7b_is_the_published_count(llama_2_7b):
    (row,) = plan(llama_2_7b, [{"name": "lora", "rank": 8}])
    assert row.n_base == 6_738_415_616
    assert row.n_trainable == 4_194_304  # peft prints this for r=8 on q_proj and v_proj
    assert row.adapter_bytes == 4 * row.n_trainable


def test_all_linear_layers_of_llama_2_7b(llama_2_7b):
    (row,) = plan(llama_2_7b, [{"name": "lora", "rank": 64, "roles": ["all"]}])
    assert row.n_trainable == 159_907_840  # QLoRA's setting
    assert row.share == pytest.approx(0.02373, abs=1e-5)


def test_every_method_has_a_row_and_nothing_is_allocated(llama_2_7b):
    rows = plan(llama_2_7b)
    counts = {row.method.name: row.n_trainable for row in rows}
    assert counts["frozen"] == 0
    assert counts["full"] == rows[0].n_base
    assert counts["prompt_tuning"] == 20 * 4096
    assert counts["top_layers"] == 2 * 202_383_360 + 4096
    assert 0 < counts["bitfit"] < counts["bottleneck"] < counts["full"]
    assert torch.empty(0).device.type == "cpu"  # the meta context is left again


def test_what_cannot_act_says_why(llama_2_7b):
    with pytest.raises(UserError, match="0 biases"):
        plan(llama_2_7b, ["bitfit"])


def test_bases_that_write_no_text_get_a_classifier_and_t5_none(tmp_path):
    (tmp_path / "bert").mkdir()
    (tmp_path / "t5").mkdir()
    bert = plan(folder_with(tmp_path / "bert", {"model_type": "bert", "num_labels": 2}))
    counts = {row.method.name: row.n_trainable for row in bert}
    assert bert[0].n_base == 109_483_778  # transformers' bert-base-uncased with two classes
    assert counts["head"] == 2 * 768 + 2
    assert counts["lora"] == 2 * 12 * 8 * (768 + 768) + 1538  # peft's 296,450 with its classifier
    assert {"full", "prompt_tuning"} <= counts.keys()
    t5 = {"model_type": "t5", "d_model": 512, "d_ff": 2048, "num_layers": 6, "num_heads": 8, "vocab_size": 32128}
    (row,) = plan(folder_with(tmp_path / "t5", t5), ["prompt_tuning"])
    assert (row.n_base, row.n_trainable) == (60_506_624, 20 * 512)  # t5-small


def test_methods_that_a_family_refuses_are_left_out_of_all(tmp_path):
    more_bases.shell("qwen3_5_text").config.save_pretrained(tmp_path)
    names = {each.method.name for each in plan(str(tmp_path))}
    assert {"lora", "full", "prompt_tuning", "bottleneck"} <= names
    assert not {"prefix_tuning", "mam", "llama_adapter"} & names
