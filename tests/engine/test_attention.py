"""Attention segment by segment and its dispatch against plain attention in float64, and how flash attention is asked.

Flash attention itself runs on CUDA alone: there `tests/engine/test_cuda.py` holds it against the same.
"""

import inspect

import pytest
import torch
from torch.nn.attention.varlen import varlen_attn

from tests import bases
from tests.engine.native.test_attention import PATTERNS, inputs, plain
from tunewise.engine.attention import attend, by_segment, flash, why_no_attention, why_not_flash
from tunewise.engine.native.attention import Pattern
from tunewise.engine.native.build import library, why_not


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize(("heads", "groups", "width"), [(4, 4, 16), (6, 2, 64), (2, 2, 10)])
def test_segments_and_their_gradients_are_those_of_plain_attention(name, heads, groups, width):
    *leaves, dout, starts = inputs(heads, groups, width, torch.float64)
    ours, exact = ([tensor.clone().requires_grad_() for tensor in leaves] for _ in range(2))
    found, expected = by_segment(*ours, starts, PATTERNS[name]), plain(*exact, starts, PATTERNS[name])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    found.backward(dout)
    expected.backward(dout)
    for one, other in zip(ours, exact, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=1e-10)


@pytest.mark.skipif(library() is None, reason=f"no kernels here: {why_not()}")
@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize(("dtype", "apart"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_segments_are_those_of_the_kernel(name, dtype, apart):
    q, k, v, _, starts = inputs(6, 2, 16, dtype)
    found, expected = by_segment(q, k, v, starts, PATTERNS[name]), attend(q, k, v, starts, PATTERNS[name])
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=0, atol=apart)


def test_dropout_drops_its_share_and_the_same_for_the_same_seed():
    n, share = 100, 0.3
    one_hot = torch.eye(n)[:, None].expand(n, 4, n)  # the output is the weights themselves
    q, k = torch.zeros(2, n, 4, n)
    starts = torch.tensor([0, n], dtype=torch.int32)

    def weights(seed):
        return by_segment(q, k, one_hot, starts, Pattern(1.0, is_causal=False, dropout=share, seed=seed))

    found = weights(3)
    kept = found > 0
    torch.testing.assert_close(found[kept], torch.full((int(kept.sum()),), 1 / n / (1 - share)))
    assert abs(float(kept.double().mean()) - (1 - share)) < 0.01
    assert torch.equal(found, weights(3))
    assert not torch.equal(found, weights(4))


def documented(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa=False):
    """What torch says of varlen_attn: keys from `left` before the query to `right` behind it, −1 being no end."""
    inspect.signature(varlen_attn).bind(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale=scale,
                                        window_size=window_size)  # fmt: skip
    assert enable_gqa == (query.shape[1] != key.shape[1])
    assert max_q == max_k == cu_seq_q.diff().max()
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    out = torch.zeros_like(query)
    left, right = window_size
    for start, stop in zip(cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist(), strict=True):
        for i in range(start, stop):
            first = start if left < 0 else max(start, i - left)
            last = stop if right < 0 else min(stop, i + right + 1)
            scores = scale * (query[i, :, None] * key[first:last].transpose(0, 1)).sum(-1)
            out[i] = (scores.softmax(-1)[..., None] * value[first:last].transpose(0, 1)).sum(1)
    return out


@pytest.mark.parametrize("name", ["causal", "both ways", "window", "window both ways"])
@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2)])
def test_flash_attention_is_asked_for_the_pattern(name, heads, groups):
    q, k, v, _, starts = inputs(heads, groups, 8, torch.float64, lengths=(1, 7, 33))
    found = flash(q, k, v, starts, PATTERNS[name], kernel=documented)
    torch.testing.assert_close(found, plain(q, k, v, starts, PATTERNS[name]), rtol=0, atol=1e-10)


def test_flash_attention_that_does_not_run_says_why():
    here = torch.device("cpu")
    assert "does not run in torch.bfloat16 on cpu" in why_not_flash(here, torch.bfloat16, (4, 2, 16), Pattern(0.2))
    assert "softcap" in why_not_flash(here, torch.bfloat16, (4, 2, 16), Pattern(0.2, softcap=3.0))


def test_a_device_or_precision_without_attention_says_so():
    assert "torch.float64 on cpu" in why_no_attention(bases.build("llama", torch.float64))
    assert "torch.float32 on meta" in why_no_attention(bases.build("llama", torch.float32).to("meta"))
