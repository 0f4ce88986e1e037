"""What is to be trained, in the terms that memory and time depend on; and the memory it takes, term by term."""

from dataclasses import asdict, dataclass
from typing import Literal

import torch


@dataclass(frozen=True)
class Seen:
    """All rows that a run sees: what leaves a frozen trunk may be kept of each."""

    rows: int
    """Each counted once."""
    tokens: int
    labels: int
    passes: float = 1.0
    """How often each is seen."""
    how: Literal["auto", "cached", "live"] = "auto"
    """`train.trunk`."""
    memory_bytes: int = 1 << 62
    """The cap on what is kept in memory, and on what is in mapped files beside it."""
    disk_bytes: int = 1 << 62


@dataclass(frozen=True)
class Work:
    """The worst step of a run: a batch of rows that are all as long as the longest."""

    rows: int = 8
    """In one forward and backward (`train.batch_size`)."""
    tokens: int = 512
    """Of each row, without the virtual tokens of a method, which are added."""
    labels: int = 512
    """Positions of each row that the loss looks at; 1 for a classifier."""
    dtype: torch.dtype = torch.bfloat16
    """Of the base; what a method adds is kept as `attach` keeps it."""
    quantise: str = ""
    """The format of the base's linear weights: nf4, fp4, int8, or plain."""
    checkpointing: bool = False
    """Activations are computed again in the backward (`train.checkpointing`)."""
    optimiser: str = "adamw"
    """`train.optimiser`."""
    label_smoothing: float = 0.0
    """`train.label_smoothing`; it takes next to nothing more."""
    decays: bool = False
    """Whether `train.weight_decay` is above 0, for which sgd makes one more gradient, of a tensor after the other."""
    keeps_best: bool = False
    """The best state so far is kept, as by a run that looks at dev: beside the present one, unless it is large."""
    seen: Seen | None = None
    """Of which what leaves the layers below everything trained is kept, where a run does so; None for `trunk=live`."""


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak of a training step, by what they hold."""

    weights: int
    """The base and what the method adds, packed weights as they are packed."""
    constants: int
    """The scales of quantised weights."""
    gradients: int
    optimiser: int
    """Moments, and float32 masters of low-precision tensors."""
    activations: int
    """What the layers keep for the backward."""
    logits: int
    """What the head and the loss keep for the backward, and their gradient."""
    cache: int
    """What has left the frozen trunk, of all rows; on a CPU, where it is kept."""
    workspace: int
    """What is alive beside all of it at the highest moment: buffers of one layer and of kernels."""
    process: int = 0
    """What a process on a CPU holds beside its tensors: holes of the heap, code, threads."""

    @property
    def total(self) -> int:
        return sum(asdict(self).values())

    @property
    def allocated(self) -> int:
        """Bytes of tensors: what an allocator counts."""
        return self.total - self.process

    @property
    def fixed(self) -> int:
        """What is there before the first row is."""
        return self.weights + self.constants + self.gradients + self.optimiser
