"""The kernel with a shared prefix against plain attention in float64, query by query."""

import pytest
import torch

from tunewise.engine.native.attention import Pattern, attend
from tunewise.engine.native.build import library, why_not
from tunewise.engine.native.prefix_attention import Prefix, attend_behind

pytestmark = pytest.mark.skipif(library() is None, reason=f"no kernels here: {why_not()}")
PATTERNS = {
    "causal": Pattern(0.2),
    "window inside the segment": Pattern(0.2, window=4),
    "window into the prefix": Pattern(0.2, window=30),
    "softcap": Pattern(0.7, softcap=1.5),
    "softcap, window": Pattern(0.7, window=40, softcap=3.0),
}
# first query, number of queries, first own key, first key of the context, its length; keys 200 to 239 were cached
SEGMENTS = [
    (0, 5, 0, 0, 0),
    (5, 3, 5, 0, 5),  # two that continue the first one
    (8, 1, 8, 0, 5),
    (9, 70, 9, 0, 0),
    (79, 1, 221, 200, 21),  # one token behind a cache
    (80, 1, 239, 230, 9),
    (81, 33, 81, 9, 70),
]
N_QUERIES, N_KEYS = 120, 240  # the last six queries are of no segment


def plain(q, k, v, prefix, pattern, segments=SEGMENTS):
    """The same in float64: (T, H, D); prefix is (keys, values), each (P, G, D)."""
    q, k, v, keys, values = (tensor.double() for tensor in (q, k, v, *prefix))
    shared = q.shape[1] // k.shape[1]
    out = torch.zeros(q.shape, dtype=torch.float64)
    for first, n, own, context, n_context in segments:
        for i in range(n):
            read = [*range(context, context + n_context), *range(own, own + i + 1)]
            seen_k, seen_v = torch.cat([keys, k[read]]), torch.cat([values, v[read]])
            if pattern.window:
                seen_k, seen_v = seen_k[-pattern.window :], seen_v[-pattern.window :]
            seen_k, seen_v = (tensor.repeat_interleave(shared, 1) for tensor in (seen_k, seen_v))
            scores = pattern.scale * torch.einsum("hd,jhd->hj", q[first + i], seen_k)
            if pattern.softcap:
                scores = pattern.softcap * torch.tanh(scores / pattern.softcap)
            out[first + i] = torch.einsum("hj,jhd->hd", scores.softmax(-1), seen_v)
    return out


def inputs(heads, groups, width, n_prefix, dtype=torch.float32, n_keys=N_KEYS):
    generator = torch.Generator().manual_seed(heads * 100 + width)
    shapes = [(N_QUERIES, heads), (n_keys, groups), (n_keys, groups), (n_prefix, groups), (n_prefix, groups)]
    q, k, v, keys, values = (torch.randn(*shape, width, generator=generator).to(dtype) for shape in shapes)
    return q, k, v, (keys, values)


def found(q, k, v, prefix, pattern, segments=SEGMENTS):
    shared = Prefix.of(*prefix) if len(prefix[0]) else None
    return attend_behind(q, k, v, torch.tensor(segments, dtype=torch.int32), shared, pattern)


@pytest.mark.parametrize("n_prefix", [0, 1, 45, 1100])
@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize(("heads", "groups", "width"), [(4, 4, 16), (6, 2, 64), (2, 2, 10)])
def test_outputs_are_those_of_plain_attention(name, heads, groups, width, n_prefix):
    q, k, v, prefix = inputs(heads, groups, width, n_prefix)
    expected = plain(q, k, v, prefix, PATTERNS[name])
    out = found(q, k, v, prefix, PATTERNS[name])
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=5e-6)
    assert out[114:].eq(0).all()


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("heads", [2, 8])
def test_contexts_longer_than_a_tile(name, heads):
    # one query behind its cache, whose keys are not turned round where few heads share them, and forty behind theirs
    q, k, v, prefix = inputs(heads, 2, 16, 20, n_keys=1500)
    segments = [(0, 1, 700, 0, 700), (1, 40, 1400, 710, 600)]
    expected = plain(q, k, v, prefix, PATTERNS[name], segments)
    out = found(q, k, v, prefix, PATTERNS[name], segments)
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=5e-6)


def test_bfloat16_is_float32_rounded_at_the_ends():
    q, k, v, prefix = inputs(4, 2, 64, 45, torch.bfloat16)
    wide = found(q.float(), k.float(), v.float(), [tensor.float() for tensor in prefix], Pattern(0.125))
    narrow = found(q, k, v, prefix, Pattern(0.125))
    assert narrow.dtype == torch.bfloat16
    assert torch.equal(narrow, wide.bfloat16())


def test_any_strides_will_do():
    q, k, v, prefix = inputs(4, 2, 32, 20)
    turned = [tensor.transpose(0, 1).contiguous().transpose(0, 1) for tensor in (q, k, v)]
    assert torch.equal(found(*turned, prefix, Pattern(0.2)), found(q, k, v, prefix, Pattern(0.2)))


def test_without_prefix_and_context_it_is_the_kernel_of_packed_rows():
    q, k, v, _ = inputs(4, 2, 32, 0)
    lengths, starts = (40, 1, 79), torch.tensor([0, 40, 41, 120], dtype=torch.int32)
    segments = [(int(start), n, int(start), 0, 0) for start, n in zip(starts, lengths, strict=False)]
    one = found(q, k[:120], v[:120], (k[:0], v[:0]), Pattern(0.2, window=25), segments)
    torch.testing.assert_close(one, attend(q, k[:120], v[:120], starts, Pattern(0.2, window=25)), rtol=0, atol=1e-6)


def test_a_neighbour_moves_nothing():
    q, k, v, prefix = inputs(4, 2, 32, 45)
    before = found(q, k, v, prefix, Pattern(0.2))
    k[9:79] += 1
    after = found(q, k, v, prefix, Pattern(0.2))
    assert torch.equal(after[:9], before[:9])
    assert torch.equal(after[79:81], before[79:81])
    assert not torch.equal(after[9:79], before[9:79])
    assert not torch.equal(after[81:114], before[81:114])


def test_what_is_not_causal_is_refused():
    q, k, v, prefix = inputs(4, 2, 32, 5)
    with pytest.raises(ValueError, match="causal"):
        found(q, k, v, prefix, Pattern(0.2, is_causal=False))
