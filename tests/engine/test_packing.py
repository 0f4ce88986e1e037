"""Packed rows against padded ones: the same losses and the same gradients, whatever is attached."""

import pytest
import torch

from tests import bases
from tests.rows import random_rows
from tests.tuned import losses_and_gradients
from tests.tuned import moved as moved_from_its_start
from tunewise.data.encode import Encoded
from tunewise.engine import packing
from tunewise.engine.attention import by_segment
from tunewise.engine.native.build import library, why_not
from tunewise.engine.objectives import NextToken, PackedNextToken
from tunewise.engine.packing import NAME, ROUND, pack, why_not_packed
from tunewise.methods import parse_method
from tunewise.methods.attach import attach

pytestmark = pytest.mark.skipif(library() is None, reason=f"no kernels here: {why_not()}")
METHODS = {
    "lora": {"name": "lora", "rank": 4, "roles": ["all"]},
    "full": {"name": "full"},
    "bitfit": {"name": "bitfit", "add": True},
    "prompt_tuning": {"name": "prompt_tuning", "virtual_tokens": 3},
    "prefix_tuning": {"name": "prefix_tuning", "virtual_tokens": 3},
    "bottleneck": {"name": "bottleneck", "bottleneck": 4},
    "llama_adapter": {"name": "llama_adapter", "virtual_tokens": 3},
    "compacter": {"name": "compacter", "bottleneck": 4, "n": 2},
    "dora": {"name": "dora", "rank": 3},
    "mam": {"name": "mam", "virtual_tokens": 2, "bottleneck": 4},
}


def moved(family, method, dtype=torch.float32):
    return moved_from_its_start(attach(bases.build(family, dtype), parse_method(method), seed=1))


def compare(tuned, rows):
    assert why_not_packed(tuned.model, tuned.prefix_ids) == ""
    padded = losses_and_gradients(tuned, NextToken(0, tuned.prefix_ids), rows)
    packed = losses_and_gradients(tuned, PackedNextToken(0, tuned.prefix_ids), rows)
    torch.testing.assert_close(packed[0], padded[0], rtol=2e-5, atol=2e-5)
    assert packed[2] == padded[2]
    assert packed[1].keys() == padded[1].keys()
    for name, gradient in padded[1].items():
        scale = gradient.abs().max().clamp(min=1e-3)
        torch.testing.assert_close(packed[1][name] / scale, gradient / scale, rtol=0, atol=2e-4, msg=name)


@pytest.mark.parametrize("family", bases.DECODERS)
def test_every_decoder_runs_packed_as_padded(family):
    compare(moved(family, METHODS["lora"]), random_rows(7))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_every_kind_of_method_runs_packed_as_padded(name, family):
    compare(moved(family, METHODS[name]), random_rows(7))


def test_checkpointing_recomputes_inside_the_same_attention():
    tuned, rows = moved("llama", METHODS["lora"]), random_rows(5)
    plain = losses_and_gradients(tuned, PackedNextToken(0), rows)
    tuned.model.gradient_checkpointing_enable({"use_reentrant": False})
    tuned.model.train()
    again = losses_and_gradients(tuned, PackedNextToken(0), rows)
    for name, gradient in plain[1].items():
        torch.testing.assert_close(again[1][name], gradient, rtol=1e-5, atol=1e-7)


def test_the_layout_of_a_batch():
    rows = random_rows(3)
    batch = pack(rows, pad_id=0, prefix_ids=(70, 71))
    lengths = [2 + len(row.ids) for row in rows]
    n_tokens = sum(lengths)
    assert batch.n_tokens == n_tokens
    assert batch.input_ids.shape[1] % ROUND == 0
    assert batch.starts.tolist()[:4] == [0, lengths[0], lengths[0] + lengths[1], n_tokens]
    ids = batch.input_ids[0]
    assert ids[:2].tolist() == [70, 71]
    assert ids[n_tokens:].eq(0).all()
    assert batch.position_ids[0, lengths[0]] == 0
    for place, label, row in zip(batch.predicting, batch.labels, batch.rows, strict=True):
        assert ids[place + 1] == label
        assert batch.starts[row] <= place < batch.starts[row + 1] - 1


def test_a_first_token_carries_no_loss_with_or_without_prefix():
    whole = [Encoded(row.id, row.ids, row.ids, 0, truncated=False) for row in random_rows(2)]
    for prefix in ((), (70,)):
        assert pack(whole, 0, prefix).n_labels == NextToken(0, prefix).collate(whole).n_labels


def test_what_cannot_be_packed_says_why_and_is_left_as_it_was():
    wide = bases.build("llama", torch.float64)
    assert "no kernel for torch.float64" in why_not_packed(wide)
    model = bases.build("llama", torch.float32)
    before = model.config._attn_implementation
    assert why_not_packed(model) == ""
    assert model.config._attn_implementation == before != NAME


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_family_that_ignores_the_segments_is_found_out(dtype, monkeypatch):
    model = bases.build("llama", dtype)
    forward = type(model.model).forward

    def deaf(self, *args, segment_starts=None, **kwargs):
        whole = torch.tensor([0, segment_starts[-1]], dtype=torch.int32) if segment_starts is not None else None
        told = {} if whole is None else {"segment_starts": whole}
        return forward(self, *args, **told, **kwargs)

    monkeypatch.setattr(type(model.model), "forward", deaf)
    assert "does not keep packed rows apart" in why_not_packed(model)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_on_plain_torch_packed_rows_are_the_same(family, monkeypatch):
    monkeypatch.setattr(packing, "attend", by_segment)  # as where flash attention does not run
    compare(moved(family, METHODS["lora"]), random_rows(7))


def test_the_starts_of_a_batch_stay_where_lengths_are_read():
    batch = pack(random_rows(3), pad_id=0).to(torch.device("meta"))
    tensors = {name: value.device.type for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}
    assert tensors.pop("starts") == "cpu"
    assert len(tensors) == 6
    assert set(tensors.values()) == {"meta"}
