"""Kernels on tensors that hold nothing: none is called, and whoever rehearses is told what it would have done."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch._subclasses import FakeTensor

Listener = Callable[[Sequence[Tensor], int, torch.dtype], None]
_LISTENERS: list[Listener] = []


def is_pretended(tensor: Tensor) -> bool:
    """Whether it has a shape and a precision, and no numbers."""
    return isinstance(tensor, FakeTensor)


def tell(tensors: Sequence[Tensor | None], n_operations: int = 0) -> None:
    """Tell listeners of a kernel that would read or write these tensors in so many floating-point operations."""
    there = [tensor for tensor in tensors if tensor is not None]
    for listener in _LISTENERS:
        listener(there, n_operations, there[0].dtype)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Inside the block `listener` is told of every kernel that is not called."""
    _LISTENERS.append(listener)
    try:
        yield
    finally:
        _LISTENERS.remove(listener)
