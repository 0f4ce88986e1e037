"""What is minimised at a label: its cross-entropy, smoothed and weighed by classes where a run says so.

Legend: C classes, tags, or the whole vocabulary; K labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor

from tunewise.engine import loss

AnyObjective = TypeVar("AnyObjective")


class Criterion(Protocol):
    """The loss of labels from what the head says of them."""

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss at each label: (...), at least float32, 0 where IGNORED, from logits (..., C) and labels (...)."""

    def label_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The same of labels none of which is IGNORED, on fused kernels: (K,) from logits (K, C) and labels (K,)."""


@dataclass(frozen=True)
class CrossEntropy:
    """(1 − ε) w_y CE(y) + ε/C Σ_c w_c CE(c), y being the label and CE(c) = −log p(c): torch's `cross_entropy`.

    Label smoothing is that of Szegedy et al. 2016, arXiv:1512.00567, section 7.
    """

    smoothing: float = 0.0
    """ε: the share of each label that is spread over all C."""
    classes: tuple[float, ...] = ()
    """w, class by class; () where all count alike."""

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        weights = loss.wide(logits).new_tensor(self.classes) if self.classes else None
        return loss.cross_entropies(logits, labels, self.smoothing, weights)

    def label_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.losses(logits, labels) if self.classes else loss.label_losses(logits, labels, self.smoothing)


PLAIN = CrossEntropy()
"""That of every evaluation, and of a training that says nothing else."""


@dataclass(frozen=True)
class OfLanes:
    """Each lane's own criterion, for a batch in which the lanes stand behind one another."""

    own: tuple[Criterion, ...]
    n_rows: tuple[int, ...]
    n_labels: tuple[int, ...]

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        sizes = list(self.n_rows)
        parts = zip(self.own, logits.split(sizes), labels.split(sizes), strict=True)
        return torch.cat([criterion.losses(*part) for criterion, *part in parts])

    def label_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        sizes = list(self.n_labels)
        parts = zip(self.own, logits.split(sizes), labels.split(sizes), strict=True)
        return torch.cat([criterion.label_losses(*part) for criterion, *part in parts])


def of_lanes(own: Sequence[Criterion], batches: Sequence[Any]) -> Criterion:
    """The criterion of these batches as one, each with its own; lanes that are alike are asked in one go."""
    first, *others = own
    if all(other == first for other in others):
        return first
    return OfLanes(tuple(own), tuple(len(each.ids) for each in batches), tuple(each.n_labels for each in batches))


def minimising(objective: AnyObjective, criterion: Criterion) -> AnyObjective:
    """The same objective with another criterion."""
    return cast("AnyObjective", replace(cast("Any", objective), criterion=criterion))
