"""The loss of a batch, with the head computed only where labels are."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from tunewise.engine.batches import IGNORED, Batch
from tunewise.engine.native import rows
from tunewise.engine.native.build import library

PIECE = 1 << 25
"""Logits that are widened to float32 at a time: 128 MiB."""


def label_logits(model: PreTrainedModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits (B, K, vocabulary) that predict the last K columns, and those columns' labels (B, K).

    The last column is not fed: nothing is predicted from it. `use_cache=False` is said on every call, because with
    a cache transformers does not keep packed documents apart, and because training needs none.
    """
    k, n = batch.n_label_columns, batch.input_ids.shape[1] - 1
    logits = model(
        input_ids=batch.input_ids[:, :-1],
        attention_mask=batch.attention_mask[:, :-1],
        position_ids=batch.position_ids[:, :-1],
        use_cache=False,
        logits_to_keep=last_places(k, n, batch.input_ids.device),
    ).logits
    return logits, batch.labels[:, -k:]


def last_places(k: int, n: int, device: torch.device) -> Tensor:
    """The last k of n places, as `logits_to_keep`.

    Of a mere number transformers makes a slice of (B, n, d), by which torch multiplies row after row: the head is
    copied B times, and read fifty times as slowly in bfloat16.
    """
    return torch.arange(n - k, n, device=device)


def token_loss(model: PreTrainedModel, batch: Batch) -> tuple[Tensor, int]:
    """The cross-entropy in nats *summed* over the label tokens (0-d, at least float32), and their number."""
    logits, labels = label_logits(model, batch)
    loss = functional.cross_entropy(wide(logits).flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return loss, batch.n_labels


def row_losses(model: PreTrainedModel, batch: Batch) -> Tensor:
    """The cross-entropy in nats summed over each row's label tokens: (B,), at least float32."""
    return cross_entropies(*label_logits(model, batch)).sum(dim=1)


def cross_entropies(logits: Tensor, labels: Tensor, smoothing: float = 0.0, weights: Tensor | None = None) -> Tensor:
    """The cross-entropy in nats at each label: (...), at least float32, from logits (..., C); 0 where IGNORED.

    `smoothing` is the share of each label that is spread over all C; `weights` (C,) are those of `cross_entropy`.
    """
    flat = functional.cross_entropy(
        wide(logits).flatten(0, -2),
        labels.flatten(),
        weights,
        ignore_index=IGNORED,
        reduction="none",
        label_smoothing=smoothing,
    )
    return flat.view(labels.shape)


def label_losses(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """The cross-entropy in nats of each label, (K,), at least float32, from logits (K, C) and labels (K,) in [0, C).

    `smoothing` is the share of each label that is spread over all C.
    """
    if logits.device.type == "cpu" and logits.dtype in rows.DTYPES and library() is not None:
        return rows.cross_entropies(logits, labels, smoothing)
    if logits.dtype in (torch.bfloat16, torch.float16):
        return _InPieces.apply(logits, labels, smoothing)
    return functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)


class _InPieces(torch.autograd.Function):
    """Cross-entropies of logits in half precision, float32 inside; they are never in float32 all at once."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        pieces = logits.split(_rows_at_a_time(logits))
        sums = torch.cat([piece.float().logsumexp(-1) for piece in pieces])
        ctx.save_for_backward(logits, labels, sums)
        ctx.smoothing = smoothing
        own = logits.gather(1, labels[:, None])[:, 0]
        if not smoothing:
            return sums - own
        means = torch.cat([piece.float().mean(-1) for piece in pieces])
        return sums - own.float().lerp(means, smoothing)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        logits, labels, sums = ctx.saved_tensors
        found, n, smoothing = torch.empty_like(logits), _rows_at_a_time(logits), ctx.smoothing
        told = (tensor.split(n) for tensor in (logits, labels[:, None], sums[:, None], gradients[0][:, None], found))
        for piece, label, total, outer, target in zip(*told, strict=True):
            probabilities = (piece.float() - total).exp_()
            if smoothing:
                probabilities -= smoothing / logits.shape[1]
            target.copy_(probabilities.scatter_add_(1, label, torch.full_like(total, smoothing - 1)).mul_(outer))
        return found, None, None


def _rows_at_a_time(logits: Tensor) -> int:
    return max(1, PIECE // logits.shape[1])


def wide(logits: Tensor) -> Tensor:
    """Logits in float32 at least: probabilities are never computed in half precision."""
    return logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
