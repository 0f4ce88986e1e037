"""How important the triplets of AdaLoRA have been: sensitivity times uncertainty, smoothed over the steps.

Zhang et al. 2023, arXiv:2303.10512, eqs. 7 to 11. An entry's sensitivity is |w ∂L/∂w|, its uncertainty how far that
strays from its mean; a triplet's importance is that of its singular value and the means over its two vectors.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tunewise.methods.base import Delta
from tunewise.models.anatomy import Site

SMOOTHING = 0.85  # beta1 and beta2, section 4.1
PARTS = ("lora_A", "lora_E", "lora_B")


class ScoredTriplets(Delta):
    """A (rank, d_in), E (rank, 1), zero at birth, B (d_out, rank), and how important each entry has been so far."""

    def __init__(self, site: Site, rank: int) -> None:
        super().__init__()
        self.lora_A = nn.Parameter(torch.randn(rank, site.d_in) * 0.02)
        self.lora_E = nn.Parameter(torch.zeros(rank, 1))
        self.lora_B = nn.Parameter(torch.randn(site.d_out, rank) * 0.02)
        for name in PARTS:
            shape = self.get_parameter(name).shape
            self.register_buffer(f"sensitivity_{name}", torch.zeros(shape))
            self.register_buffer(f"uncertainty_{name}", torch.zeros(shape))
        self.register_buffer("is_kept", torch.ones(rank, 1))

    def settle(self) -> None:
        if "is_kept" not in self._buffers:  # one that was loaded is settled
            return
        for name in PARTS:
            delattr(self, f"sensitivity_{name}")
            delattr(self, f"uncertainty_{name}")
        del self.is_kept

    @torch.no_grad()
    def observe(self) -> None:
        """Take the gradients of one step into the importance of every entry."""
        for name in PARTS:
            parameter, sensitivity = self.get_parameter(name), self.get_buffer(f"sensitivity_{name}")
            now = (parameter * parameter.grad).abs()
            sensitivity.lerp_(now, 1 - SMOOTHING)
            self.get_buffer(f"uncertainty_{name}").lerp_((now - sensitivity).abs(), 1 - SMOOTHING)

    def importance(self) -> Tensor:
        """One score a triplet, (rank,)."""
        a, e, b = (self.get_buffer(f"sensitivity_{n}") * self.get_buffer(f"uncertainty_{n}") for n in PARTS)
        return e.flatten() + a.mean(1) + b.mean(0)

    @torch.no_grad()
    def cut(self, is_kept: Tensor | None = None) -> None:
        """Set the values of the triplets that are not kept to zero."""
        if is_kept is not None:
            self.is_kept.copy_(is_kept.unsqueeze(1))
        self.lora_E.mul_(self.is_kept)


def share_left(step: int, first: int, last: int) -> float:
    """Of the triplets above the final budget, the share that stays: 1 at step `first`, 0 at `last`; eq. 12."""
    return (1 - (step - first) / (last - first)) ** 3


def cut_to(budget: int, triplets: Sequence[ScoredTriplets]) -> None:
    """Keep the `budget` most important triplets of all these sites together."""
    scores = torch.cat([delta.importance() for delta in triplets])
    if budget < len(scores):
        threshold = scores.kthvalue(len(scores) - budget).values
        for delta in triplets:
            delta.cut(delta.importance() > threshold)
