"""Tensors that are not wanted at every step: copies beside the others, large ones in a mapped file without a name."""

import mmap
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from tunewise import files
from tunewise.cache import cache_folder

LARGEST_IN_MEMORY_BYTES = 256 << 20
"""Copies of more bytes together lie on the disk; the copies of a base of 67 M parameters in float32 are as large."""
ALIGNMENT = 64


def is_large(n_bytes: int) -> bool:
    """Whether copies of so many bytes are kept out of memory where that can be."""
    return n_bytes > LARGEST_IN_MEMORY_BYTES


def bytes_of(tensors: Mapping[str, Tensor]) -> int:
    """Of all their values."""
    return sum(tensor.nbytes for tensor in tensors.values())


def put_aside(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of the values, to be read only: where the tensors are, or of large ones on the disk, on the CPU.

    UserError where the disk has no room for them.
    """
    if is_large(bytes_of(tensors)):
        return mapped(tensors, cache_folder())
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def mapped(tensors: Mapping[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """The same values in one file of `folder`, which has no name: its space is free again when nobody uses a copy.

    Nothing is left behind whatever ends the process. They are written one by one, so that no other copy is in memory.
    """
    starts: dict[str, int] = {}
    with files.nameless(folder) as stream:
        for name, tensor in tensors.items():
            starts[name] = stream.tell()
            content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
            stream.write(memoryview(content.numpy()))
            stream.write(bytes(-content.numel() % ALIGNMENT or ALIGNMENT))
        stream.flush()
        view = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
    whole = torch.frombuffer(view, dtype=torch.uint8)
    return {
        name: whole[start : start + tensors[name].nbytes].view(tensors[name].dtype).view(tensors[name].shape)
        for name, start in starts.items()
    }
