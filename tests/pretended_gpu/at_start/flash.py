"""Flash attention as plain torch on the pretended GPU, with what the real kernels refuse."""

import torch
from torch import Tensor

library = torch.library.Library("aten", "IMPL")


def _check(query, key, value, starts, longest):
    for holds, what in (
        (query.dtype == key.dtype == value.dtype in (torch.float16, torch.bfloat16), "only fp16 and bf16"),
        (query.shape[-1] % 8 == 0 and query.shape[-1] <= 256, "heads of a multiple of 8 numbers, 256 at most"),
        (all(tensor.stride(-1) == 1 for tensor in (query, key, value)), "numbers of a head behind one another"),
        (starts.dtype == torch.int32 and starts.device == query.device, "starts in int32 on the device"),
        (int(starts[-1]) == len(query) and int(starts.diff().max()) <= longest, "starts of these segments"),
    ):
        if not holds:
            raise RuntimeError(f"FlashAttention takes {what}")


def _weights(q, k, is_causal, scale, left, right):
    """(H, n, n) of one segment, from q, k (H, n, D)."""
    behind = torch.arange(q.shape[1], device=q.device)[:, None] - torch.arange(k.shape[1], device=q.device)
    right = 0 if is_causal else right
    seen = torch.ones_like(behind, dtype=torch.bool)
    seen &= True if left in (None, -1) else behind <= left
    seen &= True if right in (None, -1) else behind >= -right
    return (scale * q @ k.mT).masked_fill(~seen, -torch.inf)


def _segments(starts, groups, *tensors):
    """(H, n, D) of each segment in float32, keys and values for each head of the queries."""
    wide = [t.float().repeat_interleave(groups // t.shape[1], 1).transpose(0, 1) for t in tensors]
    return zip(*(tensor.split(starts.diff().tolist(), 1) for tensor in wide), strict=True)


def forward(
    query, key, value, starts, key_starts, longest, _, dropout, is_causal, debug, *, scale=None,
    window_size_left=None, window_size_right=None, **rest,
):  # fmt: skip
    _check(query, key, value, starts, longest)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    outs, sums = [], []
    for q, k, v in _segments(starts, query.shape[1], query, key, value):
        scores = _weights(q, k, is_causal, scale, window_size_left, window_size_right)
        outs.append(scores.softmax(-1) @ v)
        sums.append(scores.logsumexp(-1))
    out = torch.cat(outs, 1).transpose(0, 1).to(query.dtype)
    nothing = torch.zeros(2, dtype=torch.uint64, device=query.device)
    return out, torch.cat(sums, 1), nothing, nothing, nothing


def backward(
    gradient, query, key, value, out, sums, starts, key_starts, longest, _, dropout, is_causal, state, unused, *,
    scale=None, window_size_left=None, window_size_right=None,
):  # fmt: skip
    _check(query, key, value, starts, longest)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    found: list[list[Tensor]] = []
    for q, k, v, o, to in _segments(starts, query.shape[1], query, key, value, out, gradient):
        weights = _weights(q, k, is_causal, scale, window_size_left, window_size_right).softmax(-1)
        of_scores = weights * (to @ v.mT - (to * o).sum(-1, keepdim=True))
        found.append([scale * of_scores @ k, scale * of_scores.mT @ q, weights.mT @ to])
    whole = [torch.cat(each, 1).transpose(0, 1) for each in zip(*found, strict=True)]
    return tuple(
        tensor.unflatten(1, (like.shape[1], -1)).sum(2).to(like.dtype)
        for tensor, like in zip(whole, (query, key, value), strict=True)
    )


library.impl("_flash_attention_forward", forward, "CUDA")
library.impl("_flash_attention_backward", backward, "CUDA")
