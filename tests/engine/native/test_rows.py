"""The row-wise C++ kernels against the same in plain float64 torch."""

import pytest
import torch
from torch.nn import functional

from tunewise.engine.native.build import library, why_not
from tunewise.engine.native.rows import cross_entropies, gated, gelu_tanh, rms_norm, rotated

pytestmark = pytest.mark.skipif(library() is None, reason=f"no kernels here: {why_not()}")
WIDTHS = (5, 16, 50, 256)


def plain_norm(x, gain, eps=1e-5):
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * gain


def plain_rotation(x, cos, sin):
    one, two = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-two, one], dim=-1) * sin


def both(ours, plain, *inputs, tolerance=3e-6):
    """Run `ours` on float32 and `plain` on float64; compare outputs and gradients, relative to their size."""
    narrow = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    wide = [tensor.detach().double().requires_grad_() for tensor in inputs]
    found, expected = ours(*narrow), plain(*wide)
    outer = torch.randn(expected.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    found.backward(outer.float())
    expected.backward(outer)
    pairs = [(found, expected), *((one.grad, other.grad) for one, other in zip(narrow, wide, strict=True))]
    for one, other in pairs:
        assert float((one.double() - other).detach().abs().max() / other.detach().abs().max()) < tolerance


def drawn(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("d", WIDTHS)
@pytest.mark.parametrize("n", [1, 333])
def test_rms_norm(d, n):
    both(lambda x, gain: rms_norm(x, gain, 1e-5), plain_norm, drawn(1, n, d, scale=3), 1 + drawn(d, seed=1))


@pytest.mark.parametrize("d", WIDTHS)
@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_gelu_tanh(d, scale):
    both(gelu_tanh, lambda x: functional.gelu(x, approximate="tanh"), drawn(1, 200, d, scale=scale))


@pytest.mark.parametrize("d", WIDTHS)
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
def test_gated(d, activation):
    plain = functional.silu if activation == "silu" else lambda x: functional.gelu(x, approximate="tanh")
    both(
        lambda gate, up: gated(gate, up, activation),
        lambda gate, up: plain(gate) * up,
        drawn(1, 200, d, scale=5),
        drawn(1, 200, d, seed=1),
    )


@pytest.mark.parametrize("d", [4, 10, 64])
def test_rotated(d):
    angles = drawn(1, 77, d, seed=2)
    cos, sin = angles.cos(), angles.sin()
    both(
        lambda x: rotated(x.transpose(1, 2), cos, sin),
        lambda x: plain_rotation(x.transpose(1, 2), cos.double(), sin.double()),
        drawn(1, 77, 3, d),
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("c", [3, 16, 4096, 5001])
def test_cross_entropies(c, smoothing):
    labels = torch.arange(50) % c
    both(
        lambda x: cross_entropies(x * 1.0, labels, smoothing),
        lambda x: functional.cross_entropy(x, labels, reduction="none", label_smoothing=smoothing),
        drawn(50, c, scale=4),
        tolerance=1e-5,
    )


def test_halves_that_lie_in_one_wider_row():
    whole = drawn(1, 30, 2 * 48)
    both(
        lambda x: gated(*x.chunk(2, dim=-1), "silu"),
        lambda x: functional.silu(x.chunk(2, dim=-1)[0]) * x.chunk(2, dim=-1)[1],
        whole,
    )
    both(lambda x: rms_norm(x[..., 8:40], torch.ones(32), 1e-6), lambda x: plain_norm(x[..., 8:40], 1.0, 1e-6), whole)


def test_bfloat16_is_float32_rounded_once():
    x, gain = drawn(1, 40, 96).bfloat16(), (1 + drawn(96, seed=1)).bfloat16()
    assert torch.equal(rms_norm(x, gain, 1e-5), rms_norm(x.float(), gain.float(), 1e-5).bfloat16())
    assert torch.equal(gelu_tanh(x), gelu_tanh(x.float()).bfloat16())
    assert torch.equal(gated(x, -x, "gelu_tanh"), gated(x.float(), -x.float(), "gelu_tanh").bfloat16())
    heads, cos = drawn(1, 2, 40, 32).bfloat16(), drawn(1, 40, 32, seed=3).bfloat16()
    assert torch.equal(rotated(heads, cos, cos), rotated(heads.float(), cos.float(), cos.float()).bfloat16())
    logits = drawn(6, 100, seed=4).bfloat16().requires_grad_()
    wide = logits.detach().float().requires_grad_()
    labels = torch.arange(6)
    one, other = cross_entropies(logits * 1.0, labels), cross_entropies(wide * 1.0, labels)
    assert torch.equal(one, other)
    one.sum().backward()
    other.sum().backward()
    assert torch.equal(logits.grad, wide.grad.bfloat16())


def test_what_is_not_finite_stays_so():
    x = drawn(1, 3, 32)
    x[0, 1, 4] = torch.nan
    for found in (
        rms_norm(x, torch.ones(32), 1e-5),
        gelu_tanh(x),
        gated(x, x, "silu"),
        rotated(x[None], torch.ones(1, 3, 32), torch.ones(1, 3, 32))[0],
        cross_entropies(x[0], torch.zeros(3, dtype=torch.long))[None, :, None],
    ):
        assert found.isfinite().all(-1).tolist() == [[True, False, True]]
