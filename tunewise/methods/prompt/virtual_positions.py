"""Where the virtual tokens of a prefix stand: as ids that a sequence begins with, or as columns inside a stack."""

import torch
from torch import Tensor

from tunewise.methods.base import Delta


class VirtualIds(Delta):
    """On the embedding; x holds token ids. `rows` (batch, length) is the virtual token at each position, or −1."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.rows: Tensor | None = None

    def before(self, x: Tensor) -> Tensor:
        self.rows = torch.where(x >= self.vocab_size, x - self.vocab_size, -1)
        return torch.where(x >= self.vocab_size, 0, x)


class VirtualColumns:
    """Before a sequence inside a stack. `rows` (1, length) is the virtual token at each position, or −1."""

    def __init__(self, virtual_tokens: int) -> None:
        self.virtual_tokens = virtual_tokens
        self.n_present = 0  # none where a cache holds them already
        self.rows: Tensor | None = None

    def stand_before(self, sequence: Tensor, present: bool = True) -> None:
        """Take the first places before `sequence` (batch, length, ...) in this forward pass, or none."""
        self.n_present = self.virtual_tokens if present else 0
        virtual = torch.arange(self.n_present, device=sequence.device)
        self.rows = torch.cat([virtual, virtual.new_full((sequence.shape[1],), -1)])[None]
