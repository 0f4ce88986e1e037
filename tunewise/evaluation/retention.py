"""What a tuned model forgot: its loss on held-out text like that on which the base was trained."""

import math
from collections.abc import Sequence

from tunewise.data.encode import encode_prompt
from tunewise.engine.backend import chosen
from tunewise.engine.scoring import sequence_losses
from tunewise.models.load import Base


@chosen()
def retention_loss(
    base: Base,
    documents: Sequence[str],
    *,
    prefix_ids: Sequence[int] = (),
    longest: int | None = None,
    batch_size: int = 16,
    packing: bool = True,
) -> tuple[float, list[float]]:
    """(nats per token over all documents, nats per token of each); the first token of a document is not counted.

    Documents are cut to `longest` tokens, which has to be the same for two models that are compared, and to what the
    context leaves beside `prefix_ids`. Without `packing` they are padded, whatever the base.
    """
    context = base.anatomy.context_length
    rooms = [room for room in (longest, context and context - len(prefix_ids)) if room is not None]
    ids = [encode_prompt(text, base.tokenizer)[: min(rooms, default=None)] for text in documents]
    pad_id = base.tokenizer.pad_token_id
    losses = sequence_losses(
        base.model, ids, pad_id=pad_id, prefix_ids=prefix_ids, batch_size=batch_size, packing=packing
    )
    total = math.fsum(loss for loss, _ in losses) / max(1, sum(n_tokens for _, n_tokens in losses))
    return total, [loss / max(1, n_tokens) for loss, n_tokens in losses]
