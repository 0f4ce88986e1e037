"""DeBERTa's attention within packed segments: to the content of a token, to its position, and of its position.

score(i, j) = (qᵢ·kⱼ + qᵢ·kʳ(i − j) + kⱼ·qʳ(i − j)) / √(3 D), where kʳ and qʳ are the projections of the embedding of a
relative position (He et al. 2021, equation 4). Positions are projected once for a batch, and only those that a segment
is long enough to have; segments of like length are computed together. It is plain torch: on any device.

Legend: T tokens of all segments, H heads, D the width of a head, P positions; of a group of segments, padded to one
length: B segments of n tokens; N slots of all groups.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.nn import functional
from transformers import PreTrainedModel

from tunewise.engine.last_layer import laid, taken
from tunewise.methods.lanes import Lanes, lanes_on
from tunewise.models.families import PROJECTS_POSITIONS

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

    def heads_first(self, tensor: Tensor) -> Tensor:
        """(H, B, n, D) of this group, dense, from (N, H, D)."""
        return self.within(tensor).permute(2, 0, 1, 3).contiguous()

    def within(self, tensor: Tensor) -> Tensor:
        """(B, n, H, D), a view of (N, H, D)."""
        return tensor.narrow(0, self.first, self.n_segments * self.length).unflatten(0, (self.n_segments, self.length))


@dataclass(frozen=True)
class Segments:
    """What the layers are told in place of a mask."""

    groups: list[Group]
    slots: Tensor
    """(T,) the slot of each token."""
    n_slots: int
    positions: Tensor
    """(P,) the relative positions that are needed: rows of their embedding, lane by lane."""
    sizes: list[int]
    """How many of them are for each lane; of all, where there are none."""
    numbers: Tensor
    """(T,) the number of the segment that each token is of."""
    lanes: Lanes | None

    def projecting(self) -> Any:
        """Inside the block modules are given positions, each lane its own, and not tokens."""
        return nullcontext() if self.lanes is None else self.lanes.given(self.sizes)


def is_disentangled(model: PreTrainedModel) -> bool:
    """Whether its attention has terms of positions, and does not go through transformers' interface."""
    return model.config.model_type == PROJECTS_POSITIONS


@contextmanager
def disentangled(model: PreTrainedModel) -> Iterator[None]:
    """Inside the block a DeBERTa attends within the segments that it is told as `segment_starts`; others are as ever.

    Whatever is projected still passes the modules of the model, and so the deltas that sit on them.
    """
    encoder = next((module for module in model.modules() if "norm_rel_ebd" in vars(module)), None)
    if not is_disentangled(model) or encoder is None or "get_attention_mask" in vars(encoder):
        yield  # the block may be entered inside itself
        return
    told = _Told(model, encoder)
    with ExitStack() as stack:
        stack.callback(model.register_forward_pre_hook(told.listen, with_kwargs=True).remove)
        for module, name, function in told.replaced():
            stack.enter_context(_with(module, name, function))
        yield


@contextmanager
def _with(module: nn.Module, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """`function` in the place of a method; whoever has put one on the object before finds it there again."""
    before = vars(module).get(name)
    setattr(module, name, function)
    try:
        yield
    finally:
        if before is None:
            delattr(module, name)
        else:
            setattr(module, name, before)


class _Told:
    """The segments of the forward that is under way, and what the modules do with them."""

    def __init__(self, model: PreTrainedModel, encoder: nn.Module) -> None:
        self._model, self._encoder = model, encoder
        self._relative_positions = encoder.get_rel_pos
        self._starts: Tensor | None = None
        self._segments: Segments | None = None

    def listen(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """A hook that keeps what the model would not hand on; nothing is masked."""
        self._starts = kwargs.get("segment_starts")
        if self._starts is None:
            return args, kwargs
        kept = {name: value for name, value in kwargs.items() if name != "segment_starts"}
        return args, {**kept, "attention_mask": torch.ones_like(kwargs["input_ids"])}

    def replaced(self) -> Iterator[tuple[nn.Module, str, Callable[..., Any]]]:
        """Module, the name of a method of it, and what it does instead."""
        encoder = self._encoder
        yield encoder, "get_attention_mask", self._as_mask
        yield encoder, "get_rel_pos", lambda *_: None
        yield encoder, "get_rel_embedding", self._embedded
        if encoder.conv is not None:
            yield encoder.conv.conv, "forward", partial(self._convolved, encoder.conv.conv, encoder.conv.conv.forward)
        for module in encoder.modules():
            if "pos_att_type" in vars(module):
                yield module, "forward", partial(_attention, module)

    def _as_mask(self, mask: Tensor) -> Segments:
        """The segments where a mask (1, T) would be: through the arguments of the layers, for those computed again."""
        if self._starts is None:
            raise TypeError("its attention is not told the segments")
        lanes = lanes_on(self._model)
        with unset_fake_temporarily():  # lengths are numbers even where tensors hold none
            self._segments = self._laid_out(self._starts.tolist(), lanes, mask.device)
        return self._segments

    def _laid_out(self, starts: list[int], lanes: Lanes | None, device: torch.device) -> Segments:
        ends = [starts[-1]] if lanes is None else lanes.ends()
        owned: list[list[int]] = [[] for _ in ends]
        for number, start in enumerate(starts[:-1]):
            owned[next((i for i, end in enumerate(ends) if start < end), -1)].append(number)
        lengths = [stop - start for start, stop in pairwise(starts)]
        groups, slots, positions, sizes = [], torch.empty(starts[-1], dtype=torch.long), [], []
        n_slots = 0
        for numbers in owned:
            longest = max((lengths[number] for number in numbers), default=1)
            needed, rows = self._places(longest)
            rows = rows + sum(sizes)
            positions.append(needed)
            sizes.append(len(needed))
            for some in _alike(sorted(numbers, key=lambda number: -lengths[number]), lengths):
                n = lengths[some[0]]
                own = torch.tensor([lengths[number] for number in some])
                unseen = None if int(own.min()) == n else (torch.arange(n) >= own[:, None])[:, None].to(device)
                ahead, behind = rows[longest - n : longest + n].flip(0), rows[longest - n + 1 : longest + n + 1]
                groups.append(Group(n_slots, len(some), n, unseen, ahead.to(device), behind.to(device)))
                for number in some:
                    slots[starts[number] : starts[number + 1]] = torch.arange(n_slots, n_slots + lengths[number])
                    n_slots += n
        numbers = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
        told = (slots.to(device), n_slots, torch.cat(positions).to(device), sizes, numbers.to(device), lanes)
        return Segments(groups, *told)

    def _places(self, longest: int) -> tuple[Tensor, Tensor]:
        """The positions that segments of up to so many tokens need, (P,), and which of them each distance from
        −longest to longest is, (2 longest + 1,), the outermost, which no pair has, as those beside them."""
        if not self._encoder.relative_attention:
            return torch.arange(0), torch.zeros(2 * longest + 1, dtype=torch.long)
        one, each = torch.empty(1, 1), torch.empty(longest, 1)
        behind = self._relative_positions(one, each)[0, :, 0]
        ahead = self._relative_positions(each, one)[0, 0]
        span = self._encoder.rel_embeddings.num_embeddings // 2
        places = torch.cat([ahead[-1:], ahead.flip(0)[:-1], behind, behind[-1:]]).add(span).clamp(0, 2 * span - 1)
        first, last = int(places.min()), int(places.max())
        return torch.arange(first, last + 1), places - first

    def _embedded(self) -> Tensor | None:
        """(P, d) the embeddings of the positions that are needed."""
        encoder, segments = self._encoder, self._segments
        assert segments is not None
        if not encoder.relative_attention:
            return None
        with segments.projecting():
            found = encoder.rel_embeddings(segments.positions)
            return encoder.LayerNorm(found) if "layer_norm" in encoder.norm_rel_ebd else found

    def _convolved(self, module: nn.Conv1d, own: Callable[[Tensor], Tensor], states: Tensor) -> Tensor:
        """What a convolution makes of (1, d, T): zeros stand between segments, as many as it reaches over."""
        assert self._segments is not None
        numbers = self._segments.numbers
        apart = torch.arange(len(numbers), device=numbers.device) + module.padding[0] * numbers
        spread = laid(states[0].T, apart, int(apart[-1]) + 1)
        return own(spread.T[None])[:, :, apart]


def _alike(numbers: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    """Numbers of segments that make a group; they come longest first."""
    held: list[int] = []
    for number in numbers:
        longest = lengths[held[0]] if held else 0
        if held and (lengths[number] < LIKE * longest or (len(held) + 1) * longest**2 > PAIRS):
            yield held
            held = []
        if lengths[number]:
            held.append(number)
    if held:
        yield held


def _attention(
    module: Any,
    hidden_states: Tensor,
    attention_mask: Segments,
    output_attentions: bool = False,
    query_states: Tensor | None = None,
    relative_pos: Tensor | None = None,
    rel_embeddings: Tensor | None = None,
) -> tuple[Tensor, None]:
    """The forward of an attention module on packed tokens (1, T, d), with the names that its layer calls it by."""
    segments, heads = attention_mask, module.num_attention_heads
    kinds = [kind for kind in ("c2p", "p2c") if kind in module.pos_att_type]
    scale = float(torch.tensor(module.attention_head_size * (1 + len(kinds)), dtype=torch.float).sqrt())
    content = (module.query_proj, module.key_proj, module.value_proj)
    q, k, v = (laid(project(hidden_states)[0], segments.slots, segments.n_slots) for project in content)
    keys = queries = None
    if rel_embeddings is not None:
        positions = module.pos_dropout(rel_embeddings)
        with segments.projecting():
            if "c2p" in kinds:
                keys = (module.key_proj if module.share_att_key else module.pos_key_proj)(positions)
            if "p2c" in kinds:
                queries = (module.query_proj if module.share_att_key else module.pos_query_proj)(positions) / scale
    dropout = module.dropout.p if module.training else 0.0
    by_head = [
        None if tensor is None else tensor.unflatten(-1, (heads, -1)) for tensor in (q / scale, k, v, keys, queries)
    ]
    made = _Attention.apply(*by_head, segments.groups, dropout)
    return taken(made.flatten(1), segments.slots)[None], None


class _Attention(torch.autograd.Function):
    """(N, H, D) from q, k, v (N, H, D) and keys, queries of positions (P, H, D) or None, q and queries divided by the
    scale; what stands in slots of no token has no gradient."""

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
            kept = functional.dropout(torch.ones_like(weights), dropout) if dropout else None
            group.within(out).copy_((_times(weights, kept) @ own_v).permute(1, 2, 0, 3))
            saved += [weights, kept]
        ctx.groups = groups
        ctx.save_for_backward(q, k, v, keys, queries, *saved)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, keys, queries, *saved = ctx.saved_tensors
        dq, dk, dv = (torch.empty_like(tensor) for tensor in (q, k, v))
        dkeys, dqueries = (None if tensor is None else torch.zeros_like(tensor) for tensor in (keys, queries))
        for group, weights, kept in zip(ctx.groups, saved[::2], saved[1::2], strict=True):
            own_q, own_k, own_v, outer = (group.heads_first(tensor) for tensor in (q, k, v, gradients[0]))
            group.within(dv).copy_((_times(weights, kept).mT @ outer).permute(1, 2, 0, 3))
            dscores = _wide(_times(outer @ own_v.mT, kept))
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


def _times(weights: Tensor, kept: Tensor | None) -> Tensor:
    return weights if kept is None else weights * kept


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
