"""The delta of LoRA and its kin: scaling · B A x, or scaling · (B A − B₀ A₀) x where B A began in the weight."""

import math
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from tunewise.methods.base import Delta, FrozenWeight
from tunewise.models.anatomy import Site


def principal(weight: Tensor, rank: int, scaling: float) -> tuple[Tensor, Tensor]:
    """A and B with scaling · B A = the leading `rank` singular triplets of the weight."""
    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    root = (s[:rank] / scaling).sqrt()
    return root.unsqueeze(1) * v[:rank], u[:, :rank] * root


def _orthonormal(weight: Tensor, rank: int, scaling: float) -> tuple[Tensor, Tensor]:
    """The first rows of R and columns of Q of the weight's QR factors; as in peft the scaling is not divided out."""
    q, r = torch.linalg.qr(weight)
    return r[:rank], q[:, :rank]


def added(y: Tensor, x: Tensor, a: Tensor, b: Tensor, scaling: float) -> Tensor:
    """y + scaling · B A x. The engine's kernels stand in for it while a model runs on them."""
    inner = functional.linear(x, a.to(x.dtype))
    # in one pass over y: the scaled product is never a tensor of its own
    return torch.addmm(y.flatten(0, -2), inner.flatten(0, -2), b.T.to(x.dtype), alpha=scaling).view(y.shape)


PARTS_OF_WEIGHT = {"pissa": principal, "olora": _orthonormal}
FROM_WEIGHT = tuple(PARTS_OF_WEIGHT)


class LowRank(Delta):
    """A (rank, d_in) and B (d_out, rank); B is zero at birth, or both are what the weight told, which is taken off."""

    def __init__(self, site: Site, rank: int, scaling: float, dropout: float, init: str) -> None:
        super().__init__()
        self.init, self.scaling = init, scaling
        self.dropout = nn.Dropout(dropout)
        self.lora_A = nn.Parameter(torch.empty(rank, site.d_in))
        self.lora_B = nn.Parameter(torch.zeros(site.d_out, rank))
        if init == "gaussian":
            nn.init.normal_(self.lora_A, std=1 / rank)
        else:
            nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        if init in FROM_WEIGHT:
            self.register_buffer("start_A", torch.zeros(rank, site.d_in))
            self.register_buffer("start_B", torch.zeros(site.d_out, rank))

    @property
    def has_start(self) -> bool:
        """Whether B A began as a part of the weight that is still to be taken off."""
        return "start_A" in self._buffers

    @torch.no_grad()
    def bind(self, weight: FrozenWeight) -> None:
        if not self.has_start:
            return
        a, b = PARTS_OF_WEIGHT[self.init](weight()[0].to(self.lora_A.dtype), len(self.lora_A), self.scaling)
        for name, value in (("lora_A", a), ("start_A", a), ("lora_B", b), ("start_B", b)):
            self.state_dict(keep_vars=True)[name].copy_(value)

    def start_at(self, a: Tensor, b: Tensor) -> None:
        """Begin with these A and B, of this rank or a lower one; they stay a part of the adapter."""
        self.lora_A[: len(a)].copy_(a)
        self.lora_B[:, : len(a)].copy_(b)

    def factors(self) -> tuple[Tensor, Tensor]:
        """A and B such that scaling · B A is the whole change of the weight."""
        if not self.has_start:
            return self.lora_A, self.lora_B
        start_a, start_b = self.get_buffer("start_A"), self.get_buffer("start_B")
        return torch.cat([self.lora_A, start_a]), torch.cat([self.lora_B, -start_b], dim=1)

    def settle(self) -> None:
        if self.has_start:
            a, b = self.factors()
            self.lora_A, self.lora_B = nn.Parameter(a.detach()), nn.Parameter(b.detach())
            del self.start_A, self.start_B

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return added(y, self.dropout(x), *self.factors(), self.scaling)

    def stack_key(self) -> Hashable:
        if type(self) is not LowRank or (self.dropout.p and self.training):
            return None
        return LowRank, len(self.factors()[0]), self.scaling

    @staticmethod
    def stacked(deltas: Sequence["LowRank"], x: Tensor, y: Tensor) -> Tensor:
        pairs = [delta.factors() for delta in deltas]
        a, b = torch.stack([a for a, _ in pairs]).to(x.dtype), torch.stack([b for _, b in pairs]).to(x.dtype)
        return torch.baddbmm(y, torch.bmm(x, a.mT), b.mT, alpha=deltas[0].scaling)

    def change(self, x: Tensor) -> Tensor:
        """scaling · B A x."""
        a, b = self.factors()
        return self.scaling * functional.linear(functional.linear(self.dropout(x), a.to(x.dtype)), b.to(x.dtype))

    def product(self) -> Tensor:
        """scaling · B A, (d_out, d_in)."""
        a, b = self.factors()
        return self.scaling * b @ a

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return weight + self.product().detach().to(weight), bias
