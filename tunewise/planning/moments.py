"""What an optimiser keeps of each trained tensor, as `training.optimiser` keeps it; a test holds both together."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tunewise.errors import unknown
from tunewise.models.parts import is_matrix_of_a_layer, layer_by_layer

LOW_PRECISION = (torch.bfloat16, torch.float16)
RULES = ("adamw", "lion", "adafactor", "muon", "sgd")
"""Each may be in 8 bits and paged; what is paged is counted as if it stayed where it is."""
BLOCK, FEWEST = 256, 4096
"""bitsandbytes: values with a constant in common, and those of a tensor below which its moments stay in float32."""
STEPS_OF_MUON = 5
"""torch: of the iteration that makes a matrix orthogonal, in bfloat16."""


class Moments:
    """What the rule of an optimiser keeps, and float32 masters of tensors in half precision."""

    def __init__(
        self,
        tensors: Mapping[str, nn.Parameter],
        optimiser: str = "adamw",
        in_parts: bool = False,
        decays: bool = False,
    ) -> None:
        """`in_parts` where there are so many masters that their gradients are not held all at once; `decays` as in
        Work."""
        self._decays = decays
        self._rule = optimiser.removeprefix("paged_").removesuffix("_8bit")
        if self._rule not in RULES:
            raise unknown("optimiser", optimiser, RULES)
        self._tensors = dict(tensors)
        self._masters = {
            name: nn.Parameter(tensor.detach().float().clone())
            for name, tensor in self._tensors.items()
            if tensor.dtype in LOW_PRECISION
        }
        updated = {**self._tensors, **self._masters}
        in_8_bits = optimiser.endswith("_8bit")
        self._moments = {name: self._kept(name, tensor, in_8_bits) for name, tensor in updated.items()}
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
                tensor.add_(self._change(name, tensor.grad))
            if name in self._masters:
                self._tensors[name].copy_(self._masters[name])
                if len(self.parts) > 1:
                    tensor.grad = None

    def _by_muon(self, name: str, tensor: Tensor) -> bool:
        return self._rule == "muon" and is_matrix_of_a_layer(name, tensor)

    def _kept(self, name: str, tensor: Tensor, in_8_bits: bool) -> list[Tensor]:
        if self._rule == "adafactor" and tensor.ndim >= 2:
            return [tensor.new_zeros(tensor.shape[:-1]), tensor.new_zeros(tensor.shape[:-2] + tensor.shape[-1:])]
        n = 2 if self._rule in ("adamw", "muon") and not self._by_muon(name, tensor) else 1
        if not in_8_bits or tensor.numel() < FEWEST:
            return [torch.zeros_like(tensor) for _ in range(n)]
        n_blocks = -(-tensor.numel() // BLOCK)
        codes = [torch.zeros_like(tensor, dtype=torch.uint8) for _ in range(n)]
        return [*codes, *(torch.zeros(n_blocks) for _ in range(n))]

    def _change(self, name: str, gradient: Tensor) -> Tensor:
        """What is added to a tensor, with what the rule makes and lets go on the way there."""
        if self._rule == "adafactor":
            change = gradient**2 + 1.0
            if len(moments := self._moments[name]) == 2:
                rows, columns = moments
                change = torch.mul(rows.unsqueeze(-1), columns.unsqueeze(-2))
            return -change
        if self._by_muon(name, gradient):
            change = gradient.lerp(self._moments[name][0], 0.5)
            narrow = change.bfloat16()
            narrow = narrow.T if len(narrow) > narrow.shape[1] else narrow
            for _ in range(STEPS_OF_MUON):
                products = narrow @ narrow.T
                narrow = torch.addmm(products, products, products) @ narrow
            return narrow.T if len(narrow) != len(gradient) else narrow
        if self._rule == "sgd" and self._decays and gradient.ndim >= 2:
            return gradient + self._updated[name]
        return gradient
