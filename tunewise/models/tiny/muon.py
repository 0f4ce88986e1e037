"""Muon: momentum whose direction is made orthogonal, for the matrices of the hidden layers.

    M <- beta M + G;   W <- W - eta sqrt(max(1, rows / columns)) orthogonal(G + beta M)

K. Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/. Matrices of one shape are handled as one batch,
in float32, because the processors this base was trained on multiply bfloat16 slowly.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
import torch.distributed as distributed
from torch import Tensor, nn

_COEFFICIENTS = (
    3.4445,
    -4.7750,
    2.0315,
)  # the quintic of the reference: steep at zero, within 0.7-1.2 after five rounds


def orthogonal(matrices: Tensor, rounds: int = 5) -> Tensor:
    """Each matrix of a batch (n, rows, columns) with its singular values pushed towards one."""
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.transpose(1, 2)
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(rounds):
        gram = x @ x.transpose(1, 2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.transpose(1, 2)


def _in_shares(matrices: Tensor) -> Tensor:
    """`orthogonal` of a batch; of several workers each does its share and hands it to the others."""
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return orthogonal(matrices)
    shares = list(matrices.tensor_split(distributed.get_world_size()))
    shares[distributed.get_rank()] = orthogonal(shares[distributed.get_rank()]).contiguous()
    for worker, share in enumerate(shares):
        distributed.broadcast(share, src=worker)
    return torch.cat(shares)


class Muon(torch.optim.Optimizer):
    """The optimiser of the hidden matrices; embeddings and norms want AdamW."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # ty: ignore[incompatible-method-override]
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for shape, parameters in by_shape.items():
                update = _in_shares(torch.stack([self._direction(p, group["momentum"]) for p in parameters]))
                step_size = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for parameter, change in zip(parameters, update, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(change, alpha=-step_size)

    def _direction(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].mul_(momentum).add_(parameter.grad)
        return parameter.grad.add(state["momentum"], alpha=momentum)
