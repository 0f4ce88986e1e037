"""What an optimiser keeps of each trained tensor, as `training.optimiser` keeps it; a test holds both together."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tunewise.errors import unknown
from tunewise.models.parts import layer_by_layer

LOW_PRECISION = (torch.bfloat16, torch.float16)
BITS = {"adamw": 32, "adamw_8bit": 8, "paged_adamw": 32, "paged_adamw_8bit": 8}
"""Of a moment, by `train.optimiser`; those that are paged are counted as if they stayed where they are."""
BLOCK, FEWEST = 256, 4096
"""bitsandbytes: values with a constant in common, and those of a tensor below which its moments stay in float32."""


class Moments:
    """Moments of AdamW, and float32 masters of tensors in half precision."""

    def __init__(self, tensors: Mapping[str, nn.Parameter], optimiser: str = "adamw", in_parts: bool = False) -> None:
        """`in_parts` where there are so many masters that their gradients are not held all at once."""
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
        self.parts = layer_by_layer(updated) if in_parts else [list(updated)]
        """The names of what is updated at once."""

    def measure(self) -> None:
        """Read what tells the norm of all gradients before those of a part are widened."""
        if len(self.parts) > 1:
            for tensor in self._tensors.values():
                if tensor.grad is not None:
                    torch.linalg.vector_norm(tensor.grad.float())

    def widened(self, part: Sequence[str]) -> list[nn.Parameter]:
        """The masters of a part with their gradients, for which those of the tensors make room one by one."""
        masters = {name: self._masters[name] for name in part if name in self._masters}
        for name, master in masters.items():
            tensor = self._tensors[name]
            master.grad = None if tensor.grad is None else tensor.grad.float()
            tensor.grad = None
        return list(masters.values())

    @torch.no_grad()
    def step(self, part: Sequence[str]) -> None:
        """Read and write what an update of a part reads and writes: gradients, moments, masters and tensors."""
        for name in part:
            tensor = self._updated[name]
            if tensor.grad is not None:
                tensor.grad.mul_(1.0)  # clipped
                for moment in self._moments[name]:
                    moment.mul_(1)
                tensor.add_(tensor.grad)
            if name in self._masters:
                self._tensors[name].copy_(self._masters[name])
                if len(self.parts) > 1:
                    tensor.grad = None


def _moments(tensor: Tensor, bits: int) -> list[Tensor]:
    if bits == 32 or tensor.numel() < FEWEST:
        return [torch.zeros_like(tensor) for _ in range(2)]
    n_blocks = -(-tensor.numel() // BLOCK)
    codes = [torch.zeros_like(tensor, dtype=torch.uint8) for _ in range(2)]
    return [*codes, *(torch.zeros(n_blocks) for _ in range(2))]
