"""What is to be trained, in the terms that memory and time depend on; and the memory it takes, term by term."""

from dataclasses import asdict, dataclass

import torch


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
    keeps_best: bool = False
    """The best state so far is kept, as by a run that looks at dev: beside the present one, unless it is large."""
    cached_rows: int = 0
    """Of which what leaves the layers below everything trained is kept (`train.trunk`); 0 for none."""


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
    """Keys and values, and the cached trunk."""
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
