"""The C++ kernel against plain attention in float64, segment by segment."""

import itertools
import math

import pytest
import torch

from tunewise.engine.native.attention import Pattern, attend
from tunewise.engine.native.build import library, why_not

pytestmark = pytest.mark.skipif(library() is None, reason=f"no kernels here: {why_not()}")
LENGTHS = (1, 7, 33, 64, 100)
PATTERNS = {
    "causal": Pattern(0.2),
    "both ways": Pattern(0.2, is_causal=False),
    "window": Pattern(0.2, window=9),
    "window both ways": Pattern(0.2, is_causal=False, window=5),
    "softcap": Pattern(0.7, softcap=1.5),
    "softcap, window": Pattern(0.7, window=40, softcap=3.0),
}


def plain(q, k, v, starts, pattern, key_starts=None, bias=None):
    """The same in plain torch: (T, H, D)."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    outs = []
    pairs = [itertools.pairwise(each.tolist()) for each in (starts, starts if key_starts is None else key_starts)]
    for (start, stop), (first, last) in zip(*pairs, strict=True):
        scores = pattern.scale * torch.einsum("ihd,jhd->hij", q[start:stop], k[first:last])
        if pattern.softcap:
            scores = pattern.softcap * torch.tanh(scores / pattern.softcap)
        i, j = torch.arange(stop - start)[:, None], torch.arange(last - first)
        if bias is not None:
            scores = scores + bias[:, j - i + bias.shape[1] // 2]
        seen = j <= i if pattern.is_causal else torch.ones_like(j - i, dtype=torch.bool)
        if pattern.window:
            seen = seen & ((i - j).abs() < pattern.window)
        weights = scores.masked_fill(~seen, -math.inf).softmax(-1)
        outs.append(torch.einsum("hij,jhd->ihd", weights, v[first:last]))
    return torch.cat(outs)


def inputs(heads, groups, width, dtype, lengths=LENGTHS):
    generator = torch.Generator().manual_seed(heads * 100 + width)
    starts = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
    n = int(starts[-1])
    q, k, v, out = (torch.randn(n, h, width, generator=generator).to(dtype) for h in (heads, groups, groups, heads))
    return q, k, v, out, starts


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize(("heads", "groups", "width"), [(4, 4, 16), (6, 2, 64), (3, 1, 56), (2, 2, 10)])
def test_outputs_and_gradients_are_those_of_plain_attention(name, heads, groups, width):
    q, k, v, dout, starts = inputs(heads, groups, width, torch.float32)
    exact = [tensor.double().requires_grad_() for tensor in (q, k, v)]
    ours = [tensor.clone().requires_grad_() for tensor in (q, k, v)]
    expected = plain(*exact, starts, PATTERNS[name])
    found = attend(*ours, starts, PATTERNS[name])
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=5e-6)
    expected.backward(dout.double())
    found.backward(dout)
    for one, other in zip(ours, exact, strict=True):
        torch.testing.assert_close(one.grad.double(), other.grad, rtol=0, atol=3e-5)


@pytest.mark.parametrize("name", PATTERNS)
def test_segments_of_several_blocks(name):
    # longer than the queries whose gradients are added up at once, and rows of 256 scores, which are set further apart
    q, k, v, dout, starts = inputs(2, 1, 16, torch.float32, lengths=(270, 133, 256))
    exact = [tensor.double().requires_grad_() for tensor in (q, k, v)]
    ours = [tensor.clone().requires_grad_() for tensor in (q, k, v)]
    expected, found = plain(*exact, starts, PATTERNS[name]), attend(*ours, starts, PATTERNS[name])
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=5e-6)
    expected.backward(dout.double())
    found.backward(dout)
    for one, other in zip(ours, exact, strict=True):
        torch.testing.assert_close(one.grad.double(), other.grad, rtol=0, atol=3e-5)


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize(("heads", "groups", "scale"), [(4, 4, 1.0), (4, 2, 0.2)])
def test_a_bias_by_distance_and_its_gradient(heads, groups, scale, is_causal):
    q, k, v, dout, starts = inputs(heads, groups, 16, torch.float32)
    bias = torch.randn(heads, 2 * max(LENGTHS) + 3, generator=torch.Generator().manual_seed(5))
    pattern = Pattern(scale, is_causal=is_causal)
    exact = [tensor.double().requires_grad_() for tensor in (0.3 * q, 0.3 * k, v, bias)]
    ours = [tensor.clone().requires_grad_() for tensor in (0.3 * q, 0.3 * k, v, bias)]
    expected = plain(*exact[:3], starts, pattern, bias=exact[3])
    found = attend(*ours[:3], starts, pattern, bias=ours[3])
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=5e-6)
    expected.backward(dout.double())
    found.backward(dout)
    for one, other in zip(ours, exact, strict=True):
        torch.testing.assert_close(one.grad.double(), other.grad, rtol=0, atol=6e-5)
    assert ours[3].grad[:, 0].eq(0).all()  # no segment is as long


def test_the_gradient_of_a_bias_is_the_same_with_any_number_of_threads():
    q, k, v, dout, starts = inputs(4, 4, 16, torch.float32, lengths=LENGTHS * 4)
    found, before = [], torch.get_num_threads()
    try:
        for n_threads in (1, 3):
            torch.set_num_threads(n_threads)
            bias = torch.zeros(4, 2 * max(LENGTHS) - 1, requires_grad=True)
            attend(q, k, v, starts, Pattern(1.0), bias=bias).backward(dout)
            found.append(bias.grad)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keys_of_other_tokens(dtype):
    q, _, _, dout, starts = inputs(4, 2, 16, dtype, lengths=(1, 50, 33, 7))
    _, k, v, _, key_starts = inputs(4, 2, 16, dtype, lengths=(40, 3, 70, 1))
    pattern = Pattern(0.2, is_causal=False)
    exact = [tensor.double().requires_grad_() for tensor in (q, k, v)]
    ours = [tensor.clone().requires_grad_() for tensor in (q, k, v)]
    expected = plain(*exact, starts, pattern, key_starts)
    found = attend(*ours, starts, pattern, key_starts=key_starts)
    near = {"rtol": 0, "atol": 3e-5} if dtype == torch.float32 else {"rtol": 2**-8, "atol": 1e-4}
    torch.testing.assert_close(found.double(), expected, **near)
    expected.backward(dout.double())
    found.backward(dout)
    for one, other in zip(ours, exact, strict=True):
        torch.testing.assert_close(one.grad.double(), other.grad, **near)


def test_queries_without_keys_get_zeros_and_keys_without_queries_no_gradient():
    q, k, v, dout, _ = inputs(2, 2, 16, torch.float32, lengths=(20,))
    starts, key_starts = torch.tensor([0, 12, 20, 20]), torch.tensor([0, 9, 9, 20])
    ours = [tensor.clone().requires_grad_() for tensor in (q, k, v)]
    found = attend(*ours, starts.int(), Pattern(0.2, is_causal=False), key_starts=key_starts.int())
    found.backward(dout)
    assert found[12:].eq(0).all()
    assert found[:12].ne(0).all()
    for tensor, n in zip(ours, (12, 9, 9), strict=True):
        assert tensor.grad[n:].eq(0).all()
        assert tensor.grad[:n].ne(0).all()


def test_what_the_kernel_would_read_past_the_end_is_refused():
    q, k, v, _, starts = inputs(2, 2, 16, torch.float32, lengths=(20, 10))
    with pytest.raises(ValueError, match="segments of 30 and 30 tokens for 29 and 30"):
        attend(q[1:], k, v, starts, Pattern(0.2))
    with pytest.raises(ValueError, match="longer than a bias of 37 columns"):
        attend(q, k, v, starts, Pattern(0.2), bias=torch.zeros(2, 37))
    with pytest.raises(ValueError, match="no query comes before"):
        attend(q, k, v, starts, Pattern(0.2), key_starts=starts)
    with pytest.raises(ValueError, match="a window or a cap"):
        attend(q, k, v, starts, Pattern(0.2, window=3), bias=torch.zeros(2, 39))


@pytest.mark.parametrize("threads", [1, 3])
def test_any_number_of_threads_gives_the_same_bits(threads):
    q, k, v, dout, starts = inputs(6, 2, 64, torch.float32)
    before, found = torch.get_num_threads(), []
    try:
        for n in (2, threads):
            torch.set_num_threads(n)
            leaves = [tensor.clone().requires_grad_() for tensor in (q, k, v)]
            out = attend(*leaves, starts, Pattern(0.2))
            out.backward(dout)
            found.append([out, *(leaf.grad for leaf in leaves)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("width", [64, 40, 10, 7])
def test_bfloat16_is_float32_rounded_at_the_ends(width):
    q, k, v, dout, starts = inputs(4, 2, width, torch.bfloat16)
    wide = [tensor.float().requires_grad_() for tensor in (q, k, v)]
    narrow = [tensor.clone().requires_grad_() for tensor in (q, k, v)]
    expected, found = attend(*wide, starts, Pattern(0.125)), attend(*narrow, starts, Pattern(0.125))
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected.bfloat16())
    expected.backward(dout.float())
    found.backward(dout)
    for one, other in zip(narrow, wide, strict=True):
        assert torch.equal(one.grad, other.grad.bfloat16())


def test_any_strides_will_do():
    q, k, v, _, starts = inputs(4, 2, 32, torch.float32)
    turned = [tensor.transpose(0, 1).contiguous().transpose(0, 1) for tensor in (q, k, v)]
    assert torch.equal(attend(*turned, starts, Pattern(0.2)), attend(q, k, v, starts, Pattern(0.2)))


def test_one_segment_never_sees_another():
    q, k, v, _, starts = inputs(4, 2, 32, torch.float32)
    before = attend(q, k, v, starts, Pattern(0.2, is_causal=False))
    first, second = starts[3], starts[4]
    for tensor in (q, k, v):
        tensor[first:second] += 1.0
    after = attend(q, k, v, starts, Pattern(0.2, is_causal=False))
    assert torch.equal(after[:first], before[:first])
    assert torch.equal(after[second:], before[second:])
    assert not torch.equal(after[first:second], before[first:second])


def test_scores_far_apart_neither_overflow_nor_vanish():
    q, k, v, _, starts = inputs(2, 2, 16, torch.float32, lengths=(40,))
    found = attend(200 * q, k, v, starts, Pattern(1.0))
    expected = plain(200 * q.double(), k.double(), v.double(), starts, Pattern(1.0))
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-3)
    assert found.isfinite().all()


def test_dropout_keeps_the_mean_and_the_backward_drops_what_the_forward_did():
    q, k, v, dout, starts = inputs(4, 2, 16, torch.float32)
    drops = [Pattern(0.2, dropout=0.3, seed=seed) for seed in range(400)]
    mean = torch.stack([attend(q, k, v, starts, pattern) for pattern in drops]).mean(0)
    torch.testing.assert_close(mean, attend(q, k, v, starts, Pattern(0.2)), rtol=0, atol=0.35)
    assert torch.equal(attend(q, k, v, starts, drops[3]), attend(q, k, v, starts, drops[3]))
    assert not torch.equal(attend(q, k, v, starts, drops[3]), attend(q, k, v, starts, drops[4]))
    # with one-hot values the output is the weights themselves: what was drawn, to be put into plain attention
    n = LENGTHS[-1]
    q, k, dout = q[-n:], k[-n:], dout[-n:]
    segment = torch.tensor([0, n], dtype=torch.int32)
    shown = attend(q, k, torch.eye(n)[:, None].expand(n, 2, n).contiguous()[..., :16], segment, drops[3])
    wide = [torch.nn.functional.pad(tensor, (0, n - 16)) for tensor in (q, k)]
    weights = attend(*wide, torch.eye(n)[:, None].expand(n, 2, n).contiguous(), segment, drops[3])
    assert torch.equal(weights[..., :16], shown)
    kept = (weights > 0).double() / 0.7
    share = 1 - (weights > 0).sum() / (4 * n * (n + 1) / 2)
    assert abs(share - 0.3) < 0.02
    ours = [tensor.clone().requires_grad_() for tensor in (q, k, v[-n:])]
    exact = [tensor.double().requires_grad_() for tensor in (q, k, v[-n:])]
    attend(*ours, segment, drops[3]).backward(dout)
    keys, values = (tensor.repeat_interleave(2, 1) for tensor in exact[1:])
    scores = 0.2 * torch.einsum("ihd,jhd->ihj", exact[0], keys)
    seen = torch.ones(n, n, dtype=torch.bool).tril()[:, None]
    dropped = scores.masked_fill(~seen, -math.inf).softmax(-1) * kept
    torch.einsum("ihj,jhd->ihd", dropped, values).backward(dout.double())
    for one, other in zip(ours, exact, strict=True):
        torch.testing.assert_close(one.grad.double(), other.grad, rtol=0, atol=3e-5)
