"""Log-probabilities of tokens, beside those of the most probable ones there: of an answer, and of a prompt.

Legend: T tokens of a prompt, K of them at a time.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tunewise.engine.loss import wide

LOGITS = 1 << 27
"""Numbers of a pass: 512 MiB as float32. Of a prompt that has more, the model reads it several times."""
ROWS = 64
"""Of them that are made logarithms at a time."""


class Weighed(NamedTuple):
    """What the model made of a token: natural logarithms of softmax(logits), before anything is cut or cooled."""

    token: int
    log_probability: float
    best: tuple[tuple[int, float], ...]
    """The most probable tokens, whichever was written."""


def weighed(logits: Tensor, tokens: Sequence[int], n_best: int) -> list[Weighed]:
    """Each token by its row of logits (K, vocabulary), with the `n_best` most probable ones."""
    shares = wide(logits).log_softmax(dim=-1)
    own = shares.gather(1, torch.tensor(tokens, device=shares.device)[:, None])[:, 0]
    values, ids = shares.topk(min(n_best, shares.shape[1]), dim=-1)
    best = [tuple(zip(*each, strict=True)) for each in zip(ids.tolist(), values.tolist(), strict=True)]
    return [Weighed(*each) for each in zip(tokens, own.tolist(), best, strict=True)]


@torch.no_grad()
def weigh_prompt(
    model: PreTrainedModel, ids: Sequence[int], n_best: int, *, prefix_ids: Sequence[int] = ()
) -> list[Weighed]:
    """Each of T tokens but the first, which nothing stands before, as a decoder expects them behind `prefix_ids`."""
    read = torch.tensor([[*prefix_ids, *ids[:-1]]], device=model.device)
    step, found = max(1, LOGITS // model.config.get_text_config().vocab_size), list[Weighed]()
    for start in range(0, len(ids) - 1, step):
        places = torch.arange(start, min(start + step, len(ids) - 1), device=model.device)
        out = model(input_ids=read, use_cache=False, logits_to_keep=len(prefix_ids) + places)
        for first in range(0, len(places), ROWS):
            logits = out.logits[0, first : first + ROWS]
            tokens = ids[start + first + 1 : start + first + 1 + len(logits)]
            found += weighed(logits, tokens, n_best)
    return found
