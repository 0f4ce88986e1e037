"""Mixtures of experts in the engine: packed as padded, from a frozen trunk as whole, and the loss of transformers."""

import pytest
import torch
from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

from tests import bases
from tests.engine.test_packing import compare as compare_packed
from tests.engine.test_packing import moved
from tests.engine.test_trunk import compare as compare_trunk
from tests.engine.test_trunk import tuned_model
from tests.rows import random_rows
from tests.tuned import moved as moved_from_its_start
from tunewise.engine.native.build import library, why_not
from tunewise.engine.objectives import NextToken
from tunewise.engine.packing import why_not_packed
from tunewise.methods import parse_method
from tunewise.methods.attach import attach

packs = pytest.mark.skipif(library() is None, reason=f"no kernels here: {why_not()}")
EXPERTS = {"name": "lora", "rank": 2, "roles": ["q", "experts"]}
PACKED = [name for name in bases.MIXTURES if name != "gpt_oss"]


@packs
@pytest.mark.parametrize("family", PACKED)
def test_packed_rows_are_the_padded_ones(family):
    compare_packed(moved(family, EXPERTS), random_rows(7))


@packs
@pytest.mark.parametrize("name", ["full", "bottleneck", "parallel", "prefix_tuning"])
def test_every_kind_of_method_runs_packed_beside_a_shared_expert(name):
    sizes = {"prefix_tuning": {"virtual_tokens": 3}, "full": {}}.get(name, {"bottleneck": 4})
    compare_packed(moved("qwen2_moe", {"name": name, **sizes}), random_rows(7))


@packs
def test_a_window_that_is_told_to_the_mask_alone_is_kept():
    shape = {**bases.MIXTURES["qwen2_moe"], "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2}
    model = bases.drawn(lambda: Qwen2MoeForCausalLM(Qwen2MoeConfig(**shape)))
    assert model.config.layer_types == ["sliding_attention", "full_attention"]
    compare_packed(moved_from_its_start(attach(model, parse_method(EXPERTS))), random_rows(7))


@packs
def test_attention_with_sinks_is_padded_and_says_so():
    assert "its attention has sinks" in why_not_packed(bases.build("gpt_oss", torch.float32))


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe"])
def test_the_upper_layers_train_from_a_frozen_trunk_as_whole(family):
    tuned = tuned_model(family, {**EXPERTS, "layers": [-1]})
    compare_trunk(tuned, NextToken(0), random_rows(9), "layer")


@pytest.mark.parametrize("family", bases.MIXTURES)
def test_the_loss_is_the_one_that_the_model_hands_to_trainer(family):
    """Without the loss that balances the load, which `output_router_logits` is off for in every family."""
    tuned = moved(family, EXPERTS)
    assert tuned.model.config.output_router_logits is False
    rows = random_rows(4)
    batch = NextToken(0).collate(rows)
    labels = batch.labels
    theirs = tuned.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=labels).loss
    torch.testing.assert_close(NextToken(0).loss(tuned.model, batch) / batch.n_labels, theirs)
