"""Plans of mixtures of experts: work of as many experts as a token meets, memory of all of them."""

import gc
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests import bases
from tests.planning.test_rehearsal import WORK, _Padding, _rows, peak_of
from tunewise.engine.objectives import objective_for
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.models.anatomy import read_anatomy
from tunewise.models.load import Base
from tunewise.planning.rehearsal import rehearse
from tunewise.planning.shell import shell_of
from tunewise.training.config import TrainConfig
from tunewise.training.loop import fit

WIDER = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 160, "max_position_embeddings": 256}
EXPERTS = {"name": "lora", "rank": 8, "roles": ["q", "experts"]}


@pytest.fixture(scope="module")
def shells(tmp_path_factory):
    """A function that gives the shell of a family with other fields."""

    def shell(family, **fields):
        folder = tmp_path_factory.mktemp(family)
        config = bases.shell(family).config
        type(config)(**{**bases.MIXTURES[family], **fields}).save_pretrained(folder)
        return shell_of(str(folder))

    return shell


@pytest.mark.parametrize(("family", "dtype"), [("qwen2_moe", torch.float32), ("gpt_oss", torch.bfloat16)])
def test_a_few_layers_tell_what_all_of_them_tell(shells, family, dtype):
    shell, work = shells(family, num_hidden_layers=6), replace(WORK, dtype=dtype, checkpointing=True)
    few, whole = (rehearse(shell, parse_method(EXPERTS), work, whole=each) for each in (False, True))
    assert few.memory == whole.memory
    assert (few.flops, few.bytes_moved, few.n_operations) == (whole.flops, whole.bytes_moved, whole.n_operations)


@pytest.mark.parametrize("method", [{"name": "lora", "rank": 8}, EXPERTS, "full"], ids=["attention", "experts", "full"])
def test_it_is_what_the_allocator_counts_of_real_steps(shells, tmp_path, method):
    """Within 1 % and 128 KiB, as of dense bases."""
    shell = shells("mixtral", **WIDER)
    model = AutoModelForCausalLM.from_config(shell.config)
    held = sum(each.nbytes for each in {*model.parameters(), *model.buffers()})
    predicted = rehearse(shell, parse_method(method), WORK).memory
    train = TrainConfig(steps=2, batch_size=WORK.rows, evaluate_every=None, checkpoint_every=0)
    gc.collect()  # what earlier tests left behind is not to be freed on the way, and counted as given back
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        tuned = attach(model, parse_method(method))
        base = Base(model, _Padding(), read_anatomy(model), "", "", model.dtype, shell.head)
        objective = objective_for(base, tuned.prefix_ids, packing=True)
        fit(tuned, _rows("llama"), train, seed=0, folder=tmp_path / "fit", objective=objective)
    assert predicted.allocated == pytest.approx(held + peak_of(profile), rel=0.01, abs=1 << 17)


def test_changed_experts_are_made_again_in_the_backward_and_not_kept(shells):
    shell = shells("mixtral", **WIDER, num_hidden_layers=6)
    own, experts = (rehearse(shell, parse_method(method), WORK).memory for method in ("lora", EXPERTS))
    one_layer = 4 * 4 * (64 * 320 + 160 * 64)
    entering = 6 * 4 * 2 * WORK.rows * WORK.tokens * (64 + 160)  # a weight's gradient needs what enters each product
    assert 0 < experts.activations - own.activations < entering + one_layer
    assert experts.workspace < own.workspace + 3 * one_layer


def test_work_follows_the_experts_that_a_token_meets_and_memory_all_of_them(shells):
    method = parse_method({"name": "lora"})
    few, sent_to_more, many = (
        rehearse(shells("mixtral", num_local_experts=n, num_experts_per_tok=k), method, WORK)
        for n, k in ((4, 1), (4, 2), (8, 1))
    )
    n_tokens = WORK.rows * (WORK.tokens + WORK.labels)  # of two layers; in the last those before labels alone
    # forward, and back to what enters: two products of 32 × 96 and 48 × 32 each, for every token that an expert is sent
    one_more = 2 * 2 * (32 * 96 + 48 * 32) * n_tokens
    assert sum(sent_to_more.flops.values()) - sum(few.flops.values()) == one_more
    routing = 2 * 2 * 32 * 4 * n_tokens
    assert sum(many.flops.values()) - sum(few.flops.values()) == routing
    assert many.memory.weights - few.memory.weights == 4 * 4 * (32 * 96 + 48 * 32 + 32) * bases.LAYERS
