"""The kernel of low-rank changes against the same in plain float64 torch."""

import pytest
import torch

from tests import bases
from tests.engine.native.test_rows import both, drawn
from tunewise.engine.fused import fused
from tunewise.engine.native.build import library, set_aside, why_not
from tunewise.engine.native.low_rank import MOST, fits, with_low_rank
from tunewise.methods.reparam import low_rank

pytestmark = pytest.mark.skipif(library() is None, reason=f"no kernels here: {why_not()}")


def plain(y, x, a, b):
    return y + 1.5 * x @ a.T @ b.T


def ours(y, x, a, b):
    return with_low_rank(y, x, a, b, 1.5)


@pytest.mark.parametrize("widths", [(16, 16), (5, 50), (576, 192)])
@pytest.mark.parametrize("rank", [1, 3, 8, 11])
@pytest.mark.parametrize("n", [1, 77])
def test_against_float64(n, rank, widths):
    d_in, d_out = widths
    y, x = drawn(1, n, d_out), drawn(1, n, d_in, seed=1)
    both(ours, plain, y, x, drawn(rank, d_in, seed=2), drawn(d_out, rank, seed=3), tolerance=5e-6)


def test_rows_that_lie_apart_and_in_bfloat16():
    wide = [drawn(1, 40, 60, seed=seed).bfloat16() for seed in (0, 1)]
    y, x = (tensor[..., 7:39] for tensor in wide)
    a, b = drawn(4, 32, seed=2), drawn(32, 4, seed=3)
    expected = plain(*(tensor.double() for tensor in (y, x, a, b)))
    assert float((ours(y, x, a, b).double() - expected).abs().max() / expected.abs().max()) < 4e-3


def test_an_input_that_wants_no_gradient_gets_none():
    y, x = drawn(9, 16), drawn(9, 32, seed=1)
    a, b = drawn(2, 32, seed=2).requires_grad_(), drawn(16, 2, seed=3).requires_grad_()
    ours(y, x, a, b).sum().backward()
    assert x.grad is None
    assert torch.allclose(b.grad, 1.5 * (x @ a.detach().T).sum(0).expand(16, 2), atol=1e-4)


def test_what_it_takes():
    y, x, a, b = drawn(9, 16), drawn(9, 32), drawn(MOST, 32), drawn(16, MOST)
    assert fits(y, x, a, b)
    assert fits(y.bfloat16(), x.bfloat16(), a, b)
    assert not fits(y.double(), x.double(), a, b)
    assert not fits(y, x, torch.cat([a, a]), torch.cat([b, b], dim=1))


def test_a_model_runs_on_it_inside_the_block_alone():
    model = bases.build("llama", torch.float32)
    before = low_rank.added
    with fused(model):
        assert low_rank.added is not before
    assert low_rank.added is before
    with set_aside(), fused(model):
        assert low_rank.added is before
