"""The last layer where it is read against the whole of it, in float64: the same logits and gradients."""

import pytest
import torch

from tests import bases
from tests.rows import random_rows
from tests.tuned import moved
from tunewise.engine import packing
from tunewise.engine.fused import fused
from tunewise.engine.last_layer import read_at, read_places
from tunewise.engine.native.build import library, why_not
from tunewise.methods import parse_method
from tunewise.methods.attach import attach

READ = [2, 3, 7, 10]
N_TOKENS = 12
FAMILIES = ("llama", "qwen3", "gemma2", "phi3", "gpt2", "gpt_neox", "opt")
METHODS = {
    "lora": {"name": "lora", "rank": 3, "roles": ["all"]},
    "full": {"name": "full"},
    "ia3": {"name": "ia3"},
    "parallel": {"name": "parallel", "bottleneck": 4},
    "bottleneck": {"name": "bottleneck", "bottleneck": 4},
    "prefix_tuning": {"name": "prefix_tuning", "virtual_tokens": 3},
}


def tuned_of(family, method):
    model = bases.build(family, torch.float64)
    model.set_attn_implementation("eager")
    return moved(attach(model, parse_method(METHODS[method]), seed=1))


def logits_and_gradients(tuned, places=None):
    """Of one row, read at READ; the last layer is asked for `places` alone where there are any."""
    generator = torch.Generator().manual_seed(5)
    prefix = list(tuned.prefix_ids)
    ids = torch.tensor([prefix + torch.randint(3, 60, (N_TOKENS - len(prefix),), generator=generator).tolist()])
    told = {"input_ids": ids, "logits_to_keep": torch.tensor(READ), "use_cache": False}
    if places is None:
        logits = tuned.model(**told).logits
    else:
        with read_at(tuned.model, torch.tensor(places)):
            logits = tuned.model(**told).logits
    logits.sin().sum().backward()
    found = {name: tensor.grad.clone() for name, tensor in tuned.trainable.items()}
    for tensor in tuned.trainable.values():
        tensor.grad = None
    return {"logits": logits.detach(), **found}


def assert_same(ours, plain):
    for name, expected in plain.items():
        torch.testing.assert_close(ours[name], expected, rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_gradients_are_those_of_the_whole_layer(family, method):
    tuned = tuned_of(family, method)
    assert_same(logits_and_gradients(tuned, [0, *READ]), logits_and_gradients(tuned))


@pytest.mark.parametrize(
    ("family", "path"), [("llama", "mlp.up_proj"), ("phi3", "mlp.down_proj"), ("gpt2", "mlp.c_fc")]
)
def test_the_last_feed_forward_part_sees_what_is_read_and_no_more(family, path):
    model = bases.build(family, torch.float64)
    seen = {}
    for name, module in model.named_modules():
        if name.endswith(path):
            module.register_forward_hook(lambda _, args, out, name=name: seen.update({name: args[0].shape[1]}))
    before = {module: dict(vars(module)) for module in model.modules()}
    with read_at(model, torch.tensor(READ)), torch.no_grad():
        model(input_ids=torch.arange(3, 3 + N_TOKENS)[None])
    assert [seen[name] for name in sorted(seen)] == [N_TOKENS] * (bases.LAYERS - 1) + [len(READ)]
    assert all(vars(module).keys() == was.keys() for module, was in before.items())


def test_a_layer_that_mixes_tokens_behind_its_attention_is_left_whole():
    tuned = tuned_of("llama", "lora")
    part = tuned.model.model.layers[-1].mlp

    class Mixing(type(part)):
        def forward(self, x):
            return super().forward(x.cumsum(1))

    part.__class__ = Mixing
    plain = logits_and_gradients(tuned)
    with read_at(tuned.model, torch.tensor(READ)):
        assert not [module for module in tuned.model.modules() if "forward" in vars(module)]
    assert_same(logits_and_gradients(tuned, READ), plain)


def test_where_activations_are_computed_again_the_layer_is_whole():
    tuned = tuned_of("llama", "lora")
    plain = logits_and_gradients(tuned)
    tuned.model.train()
    tuned.model.gradient_checkpointing_enable({"use_reentrant": False})
    with read_at(tuned.model, torch.tensor(READ)):
        assert "forward" not in vars(tuned.model.model.layers[-1].mlp)
    assert_same(logits_and_gradients(tuned, READ), plain)


@pytest.mark.skipif(library() is None, reason=f"no kernels here: {why_not()}")
def test_a_forward_that_stood_there_is_used_and_stands_there_again():
    model = bases.build("llama", torch.float32)
    part = model.model.layers[-1].mlp
    with fused(model):
        there = vars(part)["forward"]
        with read_at(model, torch.tensor(READ)):
            assert vars(part)["forward"] is not there
        assert vars(part)["forward"] is there


def test_places_are_the_wanted_ones_and_others_up_to_a_multiple():
    assert read_places([5, 2], 9, 4) == [0, 1, 2, 5]
    assert read_places([5, 2], 9, 2) == [2, 5]
    batch = packing.pack(random_rows(40), 0)
    assert len(batch.read) % packing.ROUND == 0
    assert len(batch.read) < batch.input_ids.shape[1]
    assert set(batch.predicting.tolist()) <= set(batch.read.tolist())
    assert batch.read.tolist() == sorted(set(batch.read.tolist()))
