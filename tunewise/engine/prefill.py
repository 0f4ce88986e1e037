"""Prompts -> key-value caches: what all prompts begin with (demonstrations, a soft prompt) is computed once.

Legend: P tokens shared by all prompts, B prompts in a batch, T columns of what is their own, padded on the left.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from tunewise.engine.batches import by_length, collate, plain
from tunewise.engine.loss import last_places
from tunewise.engine.owners import ALONE, Owner
from tunewise.engine.packed_reading import SHORTEST_SHARED, shared_length


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
        self.cache.batch_repeat_interleave(times)
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
            cache.batch_repeat_interleave(len(indices))
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


def _shared_length(model: PreTrainedModel, prompts: Sequence[Sequence[int]], n_prefix: int) -> int:
    """How many tokens all prompts begin with, where sharing them pays and is exact; else 0.

    Padding stands between the shared tokens and a prompt's own. An attention window counts columns, so where it may
    be narrower than the whole row, nothing is shared.
    """
    if len(prompts) < 2:
        return 0
    n_shared = shared_length(prompts)
    window = model.config.get_text_config().to_dict().get("sliding_window")
    if n_shared < SHORTEST_SHARED or (window and n_prefix + max(map(len, prompts)) > window):
        return 0
    return n_shared
