"""Head: only the matrix that turns the last hidden state into logits; the trunk is a fixed feature extractor.

logits = (W₀ + ΔW) h. The linear probe of transfer learning: Yosinski et al. 2014, arXiv:1411.1792; beside full
fine-tuning in Kumar et al. 2022, arXiv:2202.10054.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from tunewise.errors import UserError
from tunewise.methods.base import Delta, Method, WeightChange
from tunewise.models.anatomy import Anatomy


class DenseChange(WeightChange):
    """ΔW (d_out, d_in), zero at birth: what a tied head gets, whose own weight is the embedding's too."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.change = nn.Parameter(torch.zeros(d_out, d_in))

    def weight_change(self) -> Tensor:
        return self.change


class Head(Method):
    """The language-model head; where it is tied to the embedding, a change of it that leaves the embedding alone."""

    name = "head"
    family = "selective"
    trains = "the output layer"
    paper = "arXiv:1411.1792"
    equation = "logits = (W₀ + ΔW) h"
    learning_rate = 1e-3
    learning_rate_source = "usual for linear probes; Kumar et al. 2022, arXiv:2202.10054, search around it"

    def select(self, anatomy: Anatomy) -> Iterable[str]:
        if anatomy.head is None:
            raise UserError(f"this {anatomy.model_type} base has no head", hint="load it with its language-model head")
        return (
            [] if anatomy.head_is_tied else [p for p in anatomy.parameters if p.startswith(f"{anatomy.head.module}.")]
        )

    def deltas(self, anatomy: Anatomy) -> Mapping[str, Delta]:
        if anatomy.head is None or not anatomy.head_is_tied:
            return {}
        return {anatomy.head.name: DenseChange(anatomy.head.d_in, anatomy.head.d_out)}
