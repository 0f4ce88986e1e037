"""Attention with terms of relative positions, of segments of like length together, as one autograd function.

Plain torch, on any device and in any precision.

Legend: H heads, D the width of a head, P positions; of a group: B segments of n tokens; N slots of all groups.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

LIKE = 0.75
"""The shortest segment of a group, over its longest."""
PAIRS = 1 << 15
"""Query and key pairs of a group with more than one segment: its scores stay in the caches."""


@dataclass(frozen=True)
class Group:
    """Segments of like length, padded to the longest."""

    first: int
    """Its first slot."""
    n_segments: int
    length: int
    unseen: Tensor | None
    """(B, 1, n) where a segment has ended; None where none is padded."""
    ahead: Tensor
    """(2 n,) the row of a position's key that a query meets at the distances n − 1 to −n (which no pair has)."""
    behind: Tensor
    """(2 n,) the row of a position's query that a key meets at −(n − 1) to n (which no pair has)."""

    @classmethod
    def of(cls, lengths: Sequence[int], first: int, rows: Tensor) -> Self:
        """The group of segments of these lengths, the longest first.

        `rows` (2 L + 1,) holds the row of the position at each distance from −L to L, for texts of up to L tokens.
        """
        n, middle = lengths[0], len(rows) // 2
        unseen = None if lengths[-1] == n else (torch.arange(n) >= torch.tensor(lengths)[:, None])[:, None]
        ahead, behind = rows[middle - n : middle + n].flip(0), rows[middle - n + 1 : middle + n + 1]
        return cls(first, len(lengths), n, unseen, ahead, behind)

    def to(self, device: torch.device) -> Self:
        """The same group with its tensors on `device`."""
        unseen = None if self.unseen is None else self.unseen.to(device)
        return replace(self, unseen=unseen, ahead=self.ahead.to(device), behind=self.behind.to(device))

    def heads_first(self, tensor: Tensor) -> Tensor:
        """(H, B, n, D) of this group, dense, from (N, H, D)."""
        return self.within(tensor).permute(2, 0, 1, 3).contiguous()

    def within(self, tensor: Tensor) -> Tensor:
        """(B, n, H, D), a view of (N, H, D)."""
        return tensor.narrow(0, self.first, self.n_segments * self.length).unflatten(0, (self.n_segments, self.length))


def alike(numbers: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    """Those of these segments that make a group, by number, the longest first; those without a token make none."""
    held: list[int] = []
    for number in sorted(numbers, key=lambda number: -lengths[number]):
        longest = lengths[held[0]] if held else 0
        if held and (lengths[number] < LIKE * longest or (len(held) + 1) * longest**2 > PAIRS):
            yield held
            held = []
        if lengths[number]:
            held.append(number)
    if held:
        yield held


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Tensor | None,
    queries: Tensor | None,
    groups: Sequence[Group],
    dropout: float = 0.0,
) -> Tensor:
    """softmax(qᵢ·kⱼ + qᵢ·kʳ(i − j) + kⱼ·qʳ(i − j)) v within segments: (N, H, D) from q, k, v (N, H, D).

    kʳ and qʳ are the `keys` and `queries` of positions, (P, H, D), or None without that term; q and qʳ are scaled
    already. Slots without a token hold zeros, and what they are given is not to be read. Softmax and sums are at least
    float32.
    """
    return _Attention.apply(q, k, v, keys, queries, groups, dropout)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, keys: Any, queries: Any, *told: Any) -> Tensor:
        groups, dropout = told
        out, saved = torch.empty_like(q), []
        for group in groups:
            own_q, own_k, own_v = (group.heads_first(tensor) for tensor in (q, k, v))
            scores = _wide(own_q @ own_k.mT)
            if keys is not None:
                scores += _by_distance(_with_positions(own_q, _table(keys, group.ahead)))
            if queries is not None:
                scores += _by_distance(_with_positions(own_k, _table(queries, group.behind))).mT
            if group.unseen is not None:
                scores.masked_fill_(group.unseen, -torch.inf)
            weights = scores.softmax(-1).to(q.dtype)
            kept = torch.empty_like(weights, dtype=torch.bool).bernoulli_(1 - dropout) if dropout else None
            group.within(out).copy_((_dropped(weights, kept, dropout) @ own_v).permute(1, 2, 0, 3))
            saved += [weights, kept]
        ctx.groups, ctx.dropout = groups, dropout
        ctx.save_for_backward(q, k, v, keys, queries, *saved)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, keys, queries, *saved = ctx.saved_tensors
        dropout = ctx.dropout
        dq, dk, dv = (torch.empty_like(tensor) for tensor in (q, k, v))
        dkeys, dqueries = (None if tensor is None else torch.zeros_like(tensor) for tensor in (keys, queries))
        for group, weights, kept in zip(ctx.groups, saved[::2], saved[1::2], strict=True):
            own_q, own_k, own_v, outer = (group.heads_first(tensor) for tensor in (q, k, v, gradients[0]))
            group.within(dv).copy_((_dropped(weights, kept, dropout).mT @ outer).permute(1, 2, 0, 3))
            dscores = _wide(_dropped(outer @ own_v.mT, kept, dropout))
            dscores = (weights * (dscores - (weights * dscores).sum(-1, keepdim=True))).to(q.dtype)
            own_dq, own_dk = dscores @ own_k, dscores.mT @ own_q
            if keys is not None:
                spread = _spread(dscores)
                own_dq += _with_positions(spread, _table(keys, group.ahead).mT)
                dkeys.index_add_(0, group.ahead, _of_table(spread, own_q))
            if queries is not None:
                spread = _spread(dscores.mT)
                own_dk += _with_positions(spread, _table(queries, group.behind).mT)
                dqueries.index_add_(0, group.behind, _of_table(spread, own_k))
            group.within(dq).copy_(own_dq.permute(1, 2, 0, 3))
            group.within(dk).copy_(own_dk.permute(1, 2, 0, 3))
        return dq, dk, dv, dkeys, dqueries, None, None


def _wide(scores: Tensor) -> Tensor:
    """At least float32."""
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def _dropped(weights: Tensor, kept: Tensor | None, dropout: float) -> Tensor:
    return weights if kept is None else weights * kept / (1 - dropout)


def _table(positions: Tensor, rows: Tensor) -> Tensor:
    """(H, 2 n, D) of positions (P, H, D)."""
    return positions.index_select(0, rows).transpose(0, 1)


def _with_positions(states: Tensor, table: Tensor) -> Tensor:
    """(H, B, n, 2 n) from (H, B, n, D) and a table (H, 2 n, D); or the other way with a table (H, D, 2 n)."""
    return (states.flatten(1, 2) @ table.mT).unflatten(1, states.shape[1:3])


def _of_table(spread: Tensor, states: Tensor) -> Tensor:
    """(2 n, H, D), the gradient of a table by those of its products (H, B, n, 2 n) with states (H, B, n, D)."""
    return (spread.flatten(1, 2).mT @ states.flatten(1, 2)).transpose(0, 1)


def _by_distance(products: Tensor) -> Tensor:
    """(…, n, n) a view of dense (…, n, 2 n): row r begins at column n − 1 − r."""
    n = products.shape[-2]
    flat = products.flatten(-2)[..., n - 1 : n - 1 + n * (2 * n - 1)]
    return flat.unflatten(-1, (n, 2 * n - 1))[..., :n]


def _spread(gradients: Tensor) -> Tensor:
    """(…, n, 2 n) zeros, and in the places that `_by_distance` shows the gradients (…, n, n)."""
    n = gradients.shape[-1]
    spread = gradients.new_zeros(*gradients.shape[:-1], 2 * n)
    _by_distance(spread).copy_(gradients)
    return spread
