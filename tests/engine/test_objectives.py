"""What an encoder-decoder is trained on, against transformers' own loss of the same batch."""

import pytest
import torch

from tests import bases
from tunewise.data.encode import Encoded
from tunewise.engine.objectives import Writing
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.models.anatomy import read_anatomy
from tunewise.models.load import Base

ROWS = [
    Encoded("long", (5, 9, 33, 20, 7), (11, 4, 2), 5, False),
    Encoded("short", (8, 60), (12, 50, 6, 44, 2), 2, False),
    Encoded("one", (3, 3, 3), (2,), 3, False),
]


@pytest.mark.parametrize(
    "method", [{"name": "lora", "rank": 3}, {"name": "head"}, {"name": "full"}], ids=lambda m: m["name"]
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("family", ["t5", "t5_gated", "bart"])
def test_the_loss_of_writing_is_transformers_own(family, dtype, method):
    tuned = attach(bases.build(family, dtype), parse_method(method), seed=1)
    model = tuned.model.train()
    base = Base(model, bases.Padding(), read_anatomy(model), family, "", dtype)
    objective = Writing(base)
    batch = objective.collate(ROWS)

    def taken(loss):
        loss.backward()
        gradients = {name: tensor.grad.clone() for name, tensor in tuned.trainable.items()}
        for tensor in tuned.trainable.values():
            tensor.grad = None
        return gradients

    with objective.ready(model):
        of_rows = objective.row_losses(model, batch)
        ours = taken(objective.loss(model, batch))
    mean = model(**batch.inputs, labels=batch.labels, use_cache=False).loss
    tolerance = 1e-10 if dtype == torch.float64 else 2e-5
    torch.testing.assert_close(of_rows.sum(), mean * batch.n_labels, rtol=tolerance, atol=tolerance)
    for name, gradient in taken(mean * batch.n_labels).items():
        torch.testing.assert_close(ours[name], gradient, rtol=0, atol=tolerance * max(1.0, float(gradient.abs().max())))
    for number, row in enumerate(ROWS):
        alone = objective.row_losses(model, objective.collate([row]))
        torch.testing.assert_close(of_rows[number], alone[0], rtol=tolerance, atol=tolerance)
