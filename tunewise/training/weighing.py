"""What each label of a run counts in its loss, which is a mean by these weights over every step.

As in torch's `cross_entropy(weight=..., reduction="mean")` the sum is divided by that of the weights: where all count
alike, by the number of labels, whatever the weight is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tunewise.data.encode import Encoded
from tunewise.engine.batches import IGNORED
from tunewise.engine.objectives import Objective


@dataclass(frozen=True)
class Weighing:
    """Weights by the number of a label, for a classifier, or by rows, for what is answered in words."""

    classes: tuple[float, ...] = ()
    """Of each class or tag, which the objective's criterion weighs by; () where none is."""
    rows: Sequence[float] = ()
    """Of each row, by its number, all of its labels alike; () where none is."""

    def __bool__(self) -> bool:
        return bool(self.classes) or len(self.rows) > 0

    def of_row(self, number: int, row: Encoded, objective: Objective[Any]) -> float:
        """The sum of the weights of a row's labels."""
        if self.classes:
            return sum(self.classes[int(label)] for label in row.labels if label != IGNORED)
        n_labels = objective.n_labels(row)
        return n_labels * self.rows[number] if self.rows else n_labels

    def by_row(self, numbers: Sequence[int]) -> Tensor | None:
        """(B,) what the summed losses of these rows are still to be multiplied with; None for nothing."""
        return torch.tensor([self.rows[number] for number in numbers], dtype=torch.float64) if self.rows else None


ALIKE = Weighing()
