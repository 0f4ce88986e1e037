"""What many tests do with a tuned model: move it away from its start, and take its losses and gradients."""

import torch
from torch import Tensor

from tunewise.methods.attach import Tuned


def moved(tuned: Tuned, seed: int = 1) -> Tuned:
    """The same, every trained tensor moved at random, so that the method has an effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in tuned.trainable.values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return tuned


def losses_and_gradients(tuned: Tuned, objective, rows) -> tuple[Tensor, dict[str, Tensor], tuple[int, int, list[str]]]:
    """Of a batch of these rows: the loss of each, the gradient of each trained tensor, and what the batch counts."""
    batch = objective.collate(rows)
    with objective.ready(tuned.model):
        of_rows = objective.row_losses(tuned.model, batch)
        loss = objective.loss(tuned.model, batch)
        loss.backward()
    torch.testing.assert_close(of_rows.sum(), loss)
    gradients = {name: tensor.grad.clone() for name, tensor in tuned.trainable.items() if tensor.grad is not None}
    for tensor in tuned.trainable.values():
        tensor.grad = None
    assert batch.n_labels > 0
    return of_rows.detach(), gradients, (batch.n_labels, batch.n_tokens, batch.ids)
