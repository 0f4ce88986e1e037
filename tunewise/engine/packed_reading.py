"""Prompts read packed: what many of them begin with once, then what is their own, behind one another in one row.

Legend: P tokens that all prompts begin with, T tokens of a row, K places whose logits are wanted, H query heads,
G key-value heads, D the width of a head, N slots of the cache.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import accumulate, groupby

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunewise.engine.last_layer import read_at, wanted_first
from tunewise.engine.native.attention import Pattern, attend, why_no_kernel
from tunewise.engine.native.prefix_attention import Prefix, attend_behind
from tunewise.engine.packing import APART, ROUND, packed_attention
from tunewise.engine.tried import note, tried

logger = logging.getLogger(__name__)

TOKENS = 4096
"""Of a row; more at a time are no faster."""
LOGITS = 1 << 25
"""Numbers of a row's logits: 128 MiB as float32."""
SHORTEST_SHARED = 16
"""Tokens that a common beginning must have to be worth a forward of its own."""
ALIKE = {torch.float32: 1e-4, torch.bfloat16: 0.25}
"""How far they may lie from those of the prompt alone; in bfloat16 a trained model's on tokens at random are coarse."""
FEW, ROUND_FEW = 64, 8
"""A row of few tokens, as of a step of decoding, is rounded up by less, and one of very few to a power of two."""


@dataclass
class Row:
    """Segments behind one another, each behind one of several beginnings and, where it has one, behind a context.

    Segments behind the same beginning stand together.
    """

    n_begin: Sequence[int]
    """Tokens of each beginning."""
    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    segments: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    """As `attend_behind` takes them."""
    behind: list[int] = field(default_factory=list)
    """The number of the beginning of each segment."""
    slots: list[int] = field(default_factory=list)
    """Where in the cache the tokens' keys are kept; empty where there is no cache."""

    def add(
        self, tokens: Sequence[int], context: tuple[int, int] = (0, 0), slot: int | None = None, behind: int = 0
    ) -> int:
        """A segment behind a beginning and a context (its first key, its length); the place of its first token.

        With `slot`, keys are kept in the cache from there on, and the context is counted in slots too.
        """
        first, n, start = len(self.ids), len(tokens), self.n_begin[behind] + context[1]
        self.ids += tokens
        self.positions += range(start, start + n)
        self.segments.append((first, n, first if slot is None else slot, *context))
        self.behind.append(behind)
        if slot is not None:
            self.slots += range(slot, slot + n)
        return first

    def blocks(self) -> list[tuple[int, int, Tensor]]:
        """For each beginning in turn: its number, how many tokens stand behind it, and their segments, whose queries
        are counted from the first of these tokens."""
        found = []
        for number, group in groupby(zip(self.behind, self.segments, strict=True), key=lambda each: each[0]):
            segments = torch.tensor([segment for _, segment in group], dtype=torch.int32)
            segments[:, 0] -= segments[0, 0].clone()
            found.append((number, int(segments[:, 1].sum()), segments))
        return found


class Reader:
    """A decoder that has read several beginnings, of which those of no token are none; inside `reading` only."""

    def __init__(self, model: PreTrainedModel, beginnings: Sequence[Sequence[int]], n_slots: int) -> None:
        self._model = model
        self._n_slots = n_slots
        self._prefixes: dict[nn.Module, list[Prefix | None]] = {}
        self._caches: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        self._blocks: list[tuple[int, int, Tensor]] = []
        self._slots: Tensor | None = None
        self.n_begin = [len(each) for each in beginnings]
        if any(beginnings):
            ids = [token for each in beginnings for token in each]
            positions = [place for each in beginnings for place in range(len(each))]
            ends = [end - 1 for end, n in zip(accumulate(self.n_begin), self.n_begin, strict=True) if n]
            self._forward(ids, positions, ends)

    def grow(self, n_slots: int) -> None:
        """Have so many slots, with what those there are hold."""
        more, self._n_slots = n_slots - self._n_slots, n_slots
        for module, kept in self._caches.items():
            k, v = (torch.cat([tensor, tensor.new_zeros(more, *tensor.shape[1:])]) for tensor in kept)
            self._caches[module] = k, v

    def logits(self, row: Row, wanted: Sequence[int]) -> Tensor:
        """(K, vocabulary) behind the tokens at these places of a row."""
        n_tokens = len(row.ids)
        padding = -n_tokens % _multiple(n_tokens)
        more = -len(wanted) % _multiple(len(wanted))
        self._blocks = row.blocks()
        self._slots = torch.tensor(row.slots) if row.slots else None
        found = self._forward([*row.ids, *[0] * padding], [*row.positions, *[0] * padding], [*wanted, *[0] * more])
        return found[: len(wanted)]

    def _forward(self, ids: list[int], positions: list[int], wanted: list[int]) -> Tensor:
        with self._read_at(wanted, len(ids)):
            return self._model(
                input_ids=torch.tensor([ids]),
                position_ids=torch.tensor([positions]),
                use_cache=False,
                logits_to_keep=torch.tensor(wanted),
                reader=self,
            ).logits[0]

    def _read_at(self, wanted: Sequence[int], n_tokens: int) -> AbstractContextManager[None]:
        """The last layer makes something of the wanted tokens alone."""
        distinct = list(dict.fromkeys(wanted))
        places = wanted_first(distinct, n_tokens, _multiple(len(distinct)))
        return nullcontext() if len(places) == n_tokens else read_at(self._model, torch.tensor(places))

    def attend(self, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern) -> Tensor:
        """What one attention layer makes of q (T, H, D) and k, v (T, G, D), which it keeps where it has to."""
        if not self._blocks:
            pieces = zip(k.split(self.n_begin), v.split(self.n_begin), strict=True)
            self._prefixes[module] = [Prefix.of(*each) if len(each[0]) else None for each in pieces]
            starts = [0, *accumulate(n for n in self.n_begin if n)]
            return attend(q, k, v, torch.tensor(starts, dtype=torch.int32), pattern)
        if self._slots is not None:
            if module not in self._caches:
                self._caches[module] = tuple(tensor.new_zeros(self._n_slots, *tensor.shape[1:]) for tensor in (k, v))
            new, (k, v) = (k, v), self._caches[module]
            for kept, tensor in zip((k, v), new, strict=True):
                kept[self._slots] = tensor[: len(self._slots)]
        prefixes = self._prefixes.get(module) or [None] * len(self.n_begin)
        *others, (last, _, segments) = self._blocks
        made, first = [], 0
        for number, n, of_block in others:
            made.append(attend_behind(q[first : first + n], k, v, of_block, prefixes[number], pattern))
            first += n
        rest = attend_behind(q[first:], k, v, segments, prefixes[last], pattern)  # with the padding
        return torch.cat([*made, rest]) if made else rest


def _multiple(n: int) -> int:
    """What so many tokens are rounded up to a multiple of: each number of rows costs oneDNN a kernel of its own. A row
    alone would be summed up in another order than one among others."""
    if n <= ROUND_FEW:
        return max(2, 1 << (n - 1).bit_length())
    return ROUND if n > FEW else ROUND_FEW


@contextmanager
def reading(
    model: PreTrainedModel,
    beginnings: Sequence[Sequence[int]],
    n_slots: int = 0,
    whose: AbstractContextManager[None] | None = None,
) -> Iterator[Reader]:
    """Inside the block `model` reads rows behind these beginnings, with a cache of so many slots; the beginnings
    themselves it has read inside of `whose`."""
    with torch.no_grad(), packed_attention(model):
        with whose or nullcontext():
            reader = Reader(model, beginnings, n_slots)
        yield reader


def split_off(
    prompts: Sequence[Sequence[int]], prefix_ids: Sequence[int]
) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """What all prompts, each behind `prefix_ids`, begin with, where it is worth sharing, and the rest of each.

    A prompt keeps at least its last token.
    """
    n = shared_length(prompts) if len(prompts) > 1 else 0
    if len(prompts) < 2 or len(prefix_ids) + n < SHORTEST_SHARED:
        return (), [(*prefix_ids, *prompt) for prompt in prompts]
    return (*prefix_ids, *prompts[0][:n]), [tuple(prompt[n:]) for prompt in prompts]


def shared_length(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with, the last token of the shortest aside."""
    first, last = min(prompts), max(prompts)  # in the order of lists, so these two differ earliest
    limit = min(len(prompt) for prompt in prompts) - 1
    return next((i for i in range(limit) if first[i] != last[i]), limit)


def rows_of(n_tokens: Sequence[int], n_logits: Sequence[int], vocabulary: int) -> Iterator[list[int]]:
    """Numbers of prompts that fit one row by their tokens and wanted logits, or one that fits none; longest first."""
    held: list[int] = []
    tokens = logits = 0
    for i in sorted(range(len(n_tokens)), key=lambda i: n_tokens[i], reverse=True):
        if held and (tokens + n_tokens[i] > TOKENS or (logits + n_logits[i]) * vocabulary > LOGITS):
            yield held
            held, tokens, logits = [], 0, 0
        held.append(i)
        tokens, logits = tokens + n_tokens[i], logits + n_logits[i]
    if held:
        yield held


def why_not_read(model: PreTrainedModel, prefix_ids: Sequence[int] = ()) -> str:
    """Why prompts cannot be read packed by this decoder, with what is attached to it; "" where they can."""
    return tried(model, _what(prefix_ids), lambda: _try(model, prefix_ids))


def found_to_read(model: PreTrainedModel, prefix_ids: Sequence[int] = ()) -> None:
    """Note that prompts can be read packed: what is attached was taken off since that was tried, and put on again."""
    note(model, _what(prefix_ids), "")


def _what(prefix_ids: Sequence[int]) -> tuple[object, ...]:
    return _try, tuple(prefix_ids)


@torch.no_grad()
def _try(model: PreTrainedModel, prefix_ids: Sequence[int]) -> str:
    """Two prompts with a common beginning and a continuation of one have to come out as they do alone."""
    reason = _why_not(model, prefix_ids)
    if reason:
        logger.info("prompts are padded: %s", reason)
    return reason


def _why_not(model: PreTrainedModel, prefix_ids: Sequence[int]) -> str:
    if reason := why_no_kernel(model.device, model.dtype):
        return reason
    if _turns_by_length(model):
        return "how far it rotates a position depends on the length of the whole row"
    generator = torch.Generator().manual_seed(0)
    n = min(64, model.get_input_embeddings().weight.shape[0])
    shared, one, other, more = (torch.randint(n, (length,), generator=generator).tolist() for length in (5, 3, 6, 2))
    shared = [*prefix_ids, *shared]
    was_training = model.training
    model.eval()
    try:
        with reading(model, [shared]) as reader:
            packed, beside = (_two_and_a_continuation(reader, one, each, more) for each in (other, other[::-1]))
        whole = [[*shared, *one], [*shared, *other], [*shared, *other, *more]]
        alone = torch.stack([model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1] for ids in whole])
    except (AttributeError, IndexError, TypeError, ValueError, RuntimeError) as error:
        return f"{type(model).__name__} does not run packed: {error}"
    finally:
        model.train(was_training)
    largest = alone.abs().max().clamp(min=1e-6)
    if float((packed[0] - beside[0]).abs().max() / largest) > APART:
        return f"{type(model).__name__} does not keep prompts apart"
    distance = float((packed - alone).abs().max() / largest)
    return "" if distance < ALIKE[model.dtype] else f"{type(model).__name__} reads prompts otherwise ({distance:.2g})"


def _two_and_a_continuation(reader: Reader, one: list[int], other: list[int], more: list[int]) -> Tensor:
    """(3, vocabulary) behind `one`, behind `other` and behind `other` with `more`, all in one row."""
    row = Row(reader.n_begin)
    row.add(one)
    row.add(more, (row.add(other), len(other)))
    return reader.logits(row, [len(one) - 1, len(one) + len(other) - 1, len(row.ids) - 1])


def _turns_by_length(model: PreTrainedModel) -> bool:
    told = model.config.get_text_config().to_dict().get("rope_parameters") or {}
    by_layer = [each for each in told.values() if isinstance(each, dict)]
    return any(each.get("rope_type") in ("dynamic", "longrope") for each in [told, *by_layer])
