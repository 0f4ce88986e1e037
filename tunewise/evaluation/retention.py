"""What a tuned model forgot: its loss on held-out text like that on which the base was trained."""

import math
from collections.abc import Sequence

from tunewise.data.encode import encode_prompt
from tunewise.engine.trunk import Trunk
from tunewise.evaluation.asks import LARGEST_OF_DOCUMENTS, Asks, Documents, How, alone
from tunewise.models.load import Base

TextLosses = tuple[float, list[float]]
"""Nats per token over all documents, and nats per token of each."""


def retention_loss(
    base: Base,
    documents: Sequence[str],
    *,
    prefix_ids: Sequence[int] = (),
    longest: int | None = None,
    batch_size: int = LARGEST_OF_DOCUMENTS,
    packing: bool = True,
    trunk: Trunk | None = None,
) -> TextLosses:
    """The loss of these documents; the first token of each is not counted.

    Documents are cut to `longest` tokens, which has to be the same for two models that are compared, and to what the
    context leaves beside `prefix_ids`. Without `packing` they are padded, whatever the base. `trunk` is what is frozen
    of it: documents run through it once, however often they are read.
    """
    asks = losses_of_texts(base, documents, longest)
    return alone(base, asks, How(tuple(prefix_ids), batch_size, packing, trunk))


def losses_of_texts(base: Base, documents: Sequence[str], longest: int | None) -> Asks[TextLosses]:
    """The same, as what is to be asked of whichever model."""
    losses = yield Documents([encode_prompt(text, base.tokenizer)[:longest] for text in documents])
    total = math.fsum(loss for loss, _ in losses) / max(1, sum(n_tokens for _, n_tokens in losses))
    return total, [loss / max(1, n_tokens) for loss, n_tokens in losses]
