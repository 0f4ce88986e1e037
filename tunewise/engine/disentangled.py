"""DeBERTa on packed rows: its attention keeps segments apart, and their positions are relative within each.

score(i, j) = (qᵢ·kⱼ + qᵢ·kʳ(i − j) + kⱼ·qʳ(i − j)) / √(3 D), where kʳ and qʳ are projections of the embedding of a
relative position (He et al. 2021, equation 4). Positions are projected once for a batch, and only those that its
segments are long enough to have.

Legend: T tokens of all segments, d width, D of a head, P positions, N slots: the tokens, with those that fill groups.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from transformers import PreTrainedModel

from tunewise.engine.last_layer import laid, taken
from tunewise.engine.position_terms import Group, alike, attend
from tunewise.methods.lanes import Lanes, lanes_on
from tunewise.models.families import PROJECTS_POSITIONS
from tunewise.models.replaced import replaced


@dataclass(frozen=True)
class Segments:
    """What the layers are told in place of a mask."""

    groups: list[Group]
    n_slots: int
    slots: Tensor
    """(T,) the slot of each token."""
    positions: Tensor
    """(P,) the relative positions that are needed: rows of their embedding, lane by lane."""
    numbers: Tensor
    """(T,) the number of the segment that each token is of."""
    sizes: list[int]
    """How many positions are for each lane; all, where there are none."""
    lanes: Lanes | None

    def projecting(self) -> AbstractContextManager[None]:
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
    if not is_disentangled(model):
        yield
        return
    encoder = next(module for module in model.modules() if "norm_rel_ebd" in vars(module))
    if "get_attention_mask" in vars(encoder):  # the block may be entered inside itself
        yield
        return
    told = _Told(model, encoder)
    with ExitStack() as stack:
        stack.callback(model.register_forward_pre_hook(told.listen, with_kwargs=True).remove)
        for module, name, function in told.replaced():
            stack.enter_context(replaced(module, name, function))
        yield


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
            convolution: Any = encoder.conv.conv
            yield convolution, "forward", partial(self._convolved, convolution, convolution.forward)
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
        lengths = [stop - start for start, stop in pairwise(starts)]
        groups: list[Group] = []
        slots = torch.empty(starts[-1], dtype=torch.long)
        positions: list[Tensor] = []
        n_slots = 0
        for own in _by_lane(starts, lanes):
            longest = max((lengths[number] for number in own), default=1)
            needed, rows = self._places(longest)
            rows += sum(map(len, positions))
            positions.append(needed)
            for numbers in alike(own, lengths):
                group = Group.of([lengths[number] for number in numbers], n_slots, rows)
                groups.append(group.to(device))
                for number in numbers:
                    slots[starts[number] : starts[number + 1]] = torch.arange(n_slots, n_slots + lengths[number])
                    n_slots += group.length
        of_tokens = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
        found = (tensor.to(device) for tensor in (slots, torch.cat(positions), of_tokens))
        return Segments(groups, n_slots, *found, [len(each) for each in positions], lanes)

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


def _by_lane(starts: Sequence[int], lanes: Lanes | None) -> list[list[int]]:
    """The numbers of the segments of each lane; of all, where there are none."""
    ends = [starts[-1]] if lanes is None else lanes.ends()
    found: list[list[int]] = [[] for _ in ends]
    for number, start in enumerate(starts[:-1]):
        found[next((lane for lane, end in enumerate(ends) if start < end), -1)].append(number)
    return found


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
    segments = attention_mask
    kinds = [kind for kind in ("c2p", "p2c") if kind in module.pos_att_type]
    n_terms = 1 + len(kinds)
    scale = float(torch.tensor(module.attention_head_size * n_terms, dtype=torch.float).sqrt())  # rounded as theirs is
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
    by_head = [
        None if tensor is None else tensor.unflatten(-1, (module.num_attention_heads, -1))
        for tensor in (q / scale, k, v, keys, queries)
    ]
    made = attend(*by_head, segments.groups, module.dropout.p if module.training else 0.0)
    return taken(made.flatten(1), segments.slots)[None], None
