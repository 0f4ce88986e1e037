"""What an optimiser keeps of each trained tensor, as `training.optimiser` keeps it; a test holds both together."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tunewise.errors import unknown

LOW_PRECISION = (torch.bfloat16, torch.float16)
BITS = {"adamw": 32, "adamw_8bit": 8, "paged_adamw": 32, "paged_adamw_8bit": 8}
"""Of a moment, by `train.optimiser`; those that are paged are counted as if they stayed where they are."""
BLOCK, FEWEST = 256, 4096
"""bitsandbytes: values with a constant in common, and those of a tensor below which its moments stay in float32."""


class Moments:
    """Moments of AdamW, and float32 masters of tensors in half precision."""

    def __init__(self, tensors: Mapping[str, nn.Parameter], optimiser: str = "adamw") -> None:
        if optimiser not in BITS:
            raise unknown("optimiser", optimiser, tuple(BITS))
        self._tensors = dict(tensors)
        self._masters = {
            name: nn.Parameter(tensor.detach().float().clone())
            for name, tensor in self._tensors.items()
            if tensor.dtype in LOW_PRECISION
        }
        updated = {**self._tensors, **self._masters}
        self._moments = {name: _moments(tensor, BITS[optimiser]) for name, tensor in updated.items()}
        self._updated = updated

    def widened(self) -> list[nn.Parameter]:
        """The masters with their gradients, for which those of the tensors make room one by one."""
        for name, master in self._masters.items():
            tensor = self._tensors[name]
            master.grad = None if tensor.grad is None else tensor.grad.float()
            tensor.grad = None
        return list(self._masters.values())

    @torch.no_grad()
    def step(self) -> None:
        """Read and write what an update reads and writes: gradients, moments, masters and tensors."""
        for name, tensor in self._updated.items():
            if tensor.grad is not None:
                tensor.grad.mul_(1.0)  # clipped
                for moment in self._moments[name]:
                    moment.mul_(1)
                tensor.add_(tensor.grad)
        for name, master in self._masters.items():
            self._tensors[name].copy_(master)


def _moments(tensor: Tensor, bits: int) -> list[Tensor]:
    if bits == 32 or tensor.numel() < FEWEST:
        return [torch.zeros_like(tensor) for _ in range(2)]
    n_blocks = -(-tensor.numel() // BLOCK)
    codes = [torch.zeros_like(tensor, dtype=torch.uint8) for _ in range(2)]
    return [*codes, *(torch.zeros(n_blocks) for _ in range(2))]
