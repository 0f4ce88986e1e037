"""An embedding and a head in int8 in the engine: packed losses and scored options are those of the dense base with
their dequantised weights (written answers: `test_decoding.py`)."""

import pytest
import torch

from tests import bases
from tests.rows import random_rows
from tunewise.engine import dequantised, packing
from tunewise.engine.dequantised import forwards
from tunewise.engine.fused import fused
from tunewise.engine.native.build import library, why_not
from tunewise.engine.scoring import option_log_probabilities
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.models import codes
from tunewise.models.ends import EightBitEmbedding, EightBitHead, unpack_ends
from tunewise.models.quantise import packed_weights

FORM = "nf4-ends8"
LORA = {"name": "lora", "rank": 3, "roles": ["all"]}
needs_kernels = pytest.mark.skipif(library() is None, reason=f"no kernels here: {why_not()}")


@pytest.fixture(autouse=True)
def _in_pieces(monkeypatch):
    """A head of 64 rows is multiplied by ten of them at a time."""
    monkeypatch.setattr(codes, "PIECE", 10 * bases.WIDTH)


def packed(family="llama", dtype=torch.float32):
    return bases.quantised(FORM, family, dtype)


def with_dense_ends(family="llama"):
    """The same numbers, embedding and head being plain modules."""
    model = packed(family)
    unpack_ends(model)
    return model


def losses_and_gradients(model):
    tuned = attach(model, parse_method(LORA), seed=1)
    with torch.no_grad():
        for parameter in tuned.trainable.values():
            parameter.add_(0.1)
    tuned.model.train()
    with packing.packed_attention(tuned.model):
        losses = packing.packed_losses(tuned.model, packing.pack(random_rows(7), 0))
        losses.sum().backward()
    return [losses.detach(), *(tensor.grad for tensor in tuned.trainable.values())]


@needs_kernels
@pytest.mark.parametrize("family", ["llama", "llama_tied", "gemma2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernel_makes_every_weight_but_the_rows_that_are_looked_up(family, dtype):
    model = packed(family, dtype)
    layers = [layer for layer in packed_weights(model).values() if not isinstance(layer, EightBitEmbedding)]
    assert len(layers) == 7 * bases.LAYERS + 1
    assert [layer for layer, _ in forwards(model)] == layers
    head, x = model.get_output_embeddings(), torch.ones(1, bases.WIDTH, dtype=dtype)
    as_it_is = head(x)
    with fused(model):
        assert "forward" in vars(head)
        assert torch.equal(head(x), as_it_is)
        head.get_buffer("scales").mul_(2)
        assert torch.equal(head(x), 2 * as_it_is)


@needs_kernels
def test_a_head_that_comes_out_otherwise_is_left_alone(monkeypatch):
    kernel = dequantised.dequantised
    monkeypatch.setattr(dequantised, "dequantised", lambda codes, dtype: kernel(codes, dtype) * (1 + 1e-6))
    assert not any(isinstance(layer, EightBitHead) for layer, _ in forwards(packed()))


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_and_gradients_are_those_without_a_kernel(dtype, monkeypatch):
    """Bit for bit."""
    ours = losses_and_gradients(packed("llama", dtype))
    monkeypatch.setattr("tunewise.engine.dequantised.forwards", lambda model: [])
    for one, other in zip(ours, losses_and_gradients(packed("llama", dtype)), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("family", ["llama", "llama_tied", "gemma3_text", "gpt_neox"])
def test_losses_and_gradients_are_those_of_the_dense_ends(family):
    ours, dense = losses_and_gradients(packed(family)), losses_and_gradients(with_dense_ends(family))
    assert ours[0].mean() > 1
    for one, other in zip(ours, dense, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_scored_options_are_those_of_the_dense_ends(family):
    prompts = [list(row.ids[: row.prompt_length]) for row in random_rows(5)]
    options = [[[i + 3, 5, 7], [i + 4], [9, 8]] for i in range(5)]
    ours, dense = (
        option_log_probabilities(model, prompts, options, pad_id=0, batch_size=3)
        for model in (packed(family), with_dense_ends(family))
    )
    for one, other in zip(ours, dense, strict=True):
        assert one == pytest.approx(other, abs=1e-4)
