"""Prompts -> key-value caches: what all prompts begin with (demonstrations, a soft prompt) is computed once.

Legend: P tokens shared by all prompts, B prompts in a batch, T columns of what is their own, padded on the left.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from tunewise.engine.batches import by_length, collate, plain
from tunewise.engine.loss import last_places
from tunewise.engine.owners import ALONE, Owner
from tunewise.engine.packed_reading import SHORTEST_SHARED, shared_length

WINDOWS = ("sliding_window", "window_size", "attention_chunk_size")
"""What configurations call the columns that a token sees, in some layers at least."""
SAME = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}
"""How far logits may lie from those without sharing, over the largest: rounding."""
_TRIED: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


@dataclass
class Prefilled:
    """A batch of prompts that the model has read."""

    indices: list[int]
    """Which prompts they are."""
    logits: Tensor
    """(B, vocabulary) after each prompt's last token."""
    cache: Cache
    mask: Tensor
    """(B, P + T) 1 where the cache holds a token."""
    positions: Tensor
    """(B, 1) of each prompt's last token."""

    def repeated(self, times: int) -> "Prefilled":
        """Each prompt `times` times in a row; the cache is this one's, enlarged."""
        _repeat(self.cache, len(self.logits), times)
        tensors = [each.repeat_interleave(times, dim=0) for each in (self.logits, self.mask, self.positions)]
        return Prefilled(self.indices, tensors[0], self.cache, tensors[1], tensors[2])


@torch.no_grad()
def prefill(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    pad_id: int,
    prefix_ids: Sequence[int] = (),
    batch_size: int,
    owners: Owner = ALONE,
) -> Iterator[Prefilled]:
    """Read all prompts, each behind `prefix_ids`, in batches of like length, the longest first."""
    n_shared = _shared_length(model, prompts, len(prefix_ids)) if owners is ALONE else 0
    yield from _read(model, prompts, n_shared, pad_id, prefix_ids, batch_size, owners)


def _read(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    n_shared: int,
    pad_id: int,
    prefix_ids: Sequence[int] = (),
    batch_size: int = 2,
    owners: Owner = ALONE,
) -> Iterator[Prefilled]:
    """The same, with so many tokens that all begin with read once."""
    shared: Cache | None = None
    if n_shared:
        head = torch.tensor([[*prefix_ids, *prompts[0][:n_shared]]], device=model.device)
        kept = last_places(1, head.shape[1], head.device)
        shared = model(input_ids=head, use_cache=True, logits_to_keep=kept).past_key_values
        prefix_ids, n_shared_columns = (), head.shape[1]
    for held in by_length([len(prompt) for prompt in prompts], batch_size):
        indices = owners.sorted(held)
        rows = [plain("", prompts[i][n_shared:], 0) for i in indices]
        batch = collate(rows, pad_id, prefix_ids).to(model.device)
        mask, positions, cache = batch.attention_mask, batch.position_ids, None
        if shared is not None:
            cache = copy.deepcopy(shared)
            _repeat(cache, 1, len(indices))
            mask = torch.cat([mask.new_ones(len(indices), n_shared_columns), mask], dim=1)
            positions = positions + n_shared_columns
        with owners.as_rows(indices):
            out = model(
                input_ids=batch.input_ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=last_places(1, batch.input_ids.shape[1], batch.input_ids.device),
            )
        yield Prefilled(indices, out.logits[:, -1], out.past_key_values, mask, positions[:, -1:])


def _repeat(cache: Cache, n_rows: int, times: int) -> None:
    """Each of its rows so many times in a row. As beams are reordered: by that name layers of linear attention know it
    too."""
    cache.reorder_cache(torch.arange(n_rows).repeat_interleave(times))


def _shared_length(model: PreTrainedModel, prompts: Sequence[Sequence[int]], n_prefix: int) -> int:
    """How many tokens all prompts begin with, where sharing them pays and is exact; else 0.

    Padding stands between the shared tokens and a prompt's own. An attention window counts columns, so where it may
    be narrower than the whole row, nothing is shared.
    """
    n_shared = shared_length(prompts) if len(prompts) > 1 else 0
    told = model.config.get_text_config().to_dict()
    window = min((told[name] for name in WINDOWS if told.get(name)), default=math.inf)
    if n_shared < SHORTEST_SHARED or n_prefix + max(map(len, prompts)) > window:
        return 0
    return n_shared if _passes_padding_over(model) else 0


def _passes_padding_over(model: PreTrainedModel) -> bool:
    """Whether padding behind shared tokens changes nothing. Tried and not guessed: a recurrence carries it on, and
    where a bias by distance counts columns (mpt's) it moves them apart."""
    if model not in _TRIED:
        n = min(64, model.get_input_embeddings().weight.shape[0])
        ids = torch.randint(n, (2 * SHORTEST_SHARED,), generator=torch.Generator().manual_seed(0)).tolist()
        prompts = [ids, ids[: SHORTEST_SHARED + 1]]
        try:
            whole, behind = (next(_read(model, prompts, shared, pad_id=0)).logits for shared in (0, SHORTEST_SHARED))
            distance = float((behind - whole).abs().max() / whole.abs().max())
            _TRIED[model] = distance < SAME[model.dtype]
        except (AttributeError, RuntimeError, TypeError, ValueError):  # of a cache whose rows are not repeated
            _TRIED[model] = False
    return _TRIED[model]
