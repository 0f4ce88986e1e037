"""Head: only what turns hidden states into logits, a language model's matrix or a classifier; the trunk is fixed.

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
    """The head; a language model's that is tied to the embedding gets a change that leaves the embedding alone."""

    name = "head"
    family = "selective"
    trains = "the output layer"
    paper = "arXiv:1411.1792"
    equation = "logits = (W₀ + ΔW) h"
    learning_rate = 1e-3
    learning_rate_source = "none for a language model's output layer; the default of torch.optim.AdamW"
    start = "the base's own head, a tied one with a change of zero; a new classifier is drawn as transformers draws it"

    def select(self, anatomy: Anatomy) -> Iterable[str]:
        if anatomy.head is None and not anatomy.task_head:
            raise UserError(f"this {anatomy.model_type} base has no head", hint="load it with a head for your task")
        if anatomy.head is None or anatomy.head_is_tied:
            return ()  # a classifier is trained by every method
        return [name for name in anatomy.parameters if name.startswith(f"{anatomy.head.module}.")]

    def deltas(self, anatomy: Anatomy) -> Mapping[str, Delta]:
        if anatomy.head is None or not anatomy.head_is_tied:
            return {}
        return {anatomy.head.name: DenseChange(anatomy.head.d_in, anatomy.head.d_out)}
