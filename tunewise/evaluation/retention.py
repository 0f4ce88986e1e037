"""What a tuned model forgot: its loss on held-out text like that on which the base was trained."""

import math
from collections.abc import Sequence

from tunewise.data.encode import encode_prompt
from tunewise.engine.backend import chosen
from tunewise.engine.batches import plain
from tunewise.engine.objectives import objective_for
from tunewise.engine.scoring import losses_from_trunk, sequence_losses
from tunewise.engine.trunk import Trunk
from tunewise.models.load import Base


def retention_loss(
    base: Base,
    documents: Sequence[str],
    *,
    prefix_ids: Sequence[int] = (),
    longest: int | None = None,
    batch_size: int = 16,
    packing: bool = True,
    trunk: Trunk | None = None,
) -> tuple[float, list[float]]:
    """(nats per token over all documents, nats per token of each); the first token of a document is not counted.

    Documents are cut to `longest` tokens, which has to be the same for two models that are compared, and to what the
    context leaves beside `prefix_ids`. Without `packing` they are padded, whatever the base. `trunk` is what is frozen
    of it: documents run through it once, however often they are read.
    """
    context = base.anatomy.context_length
    rooms = [room for room in (longest, context and context - len(prefix_ids)) if room is not None]
    ids = [encode_prompt(text, base.tokenizer)[: min(rooms, default=None)] for text in documents]
    with chosen(base.model.device):
        if trunk is None:
            pad_id = base.tokenizer.pad_token_id
            losses = sequence_losses(
                base.model, ids, pad_id=pad_id, prefix_ids=prefix_ids, batch_size=batch_size, packing=packing
            )
        else:
            rows = [plain("", of_text, max(0, len(of_text) - 1)) for of_text in ids]
            found = losses_from_trunk(objective_for(base, packing=packing), trunk, rows, batch_size)
            losses = [(loss, max(0, len(of_text) - 1)) for loss, of_text in zip(found, ids, strict=True)]
    total = math.fsum(loss for loss, _ in losses) / max(1, sum(n_tokens for _, n_tokens in losses))
    return total, [loss / max(1, n_tokens) for loss, n_tokens in losses]
