"""What a step allocates and computes, recorded while it runs on tensors that have shapes and no numbers."""

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from tunewise.engine.native.pretended import is_pretended, listening

Segment = tuple[str, int]
"""A part of the step: its name, and of a layer its number."""


@dataclass
class Computed:
    """What was computed."""

    flops: dict[torch.dtype, int] = field(default_factory=dict)
    """Floating-point operations of matrix products and of attention, by the precision of what is multiplied."""
    bytes_moved: int = 0
    """Read and written by every operation, each tensor once."""
    n_operations: int = 0
    """Operations that read or write; a view does neither."""
    bytes_taken: int = 0
    """Of all tensors that were made, those that are gone again among them."""

    def taken(self) -> "Computed":
        """All of it until now; what is counted begins anew."""
        found = self.copy()
        self.flops.clear()
        self.bytes_moved = self.n_operations = self.bytes_taken = 0
        return found

    def copy(self) -> "Computed":
        return replace(self, flops=dict(self.flops))

    def grow(self, one: "Computed", other: "Computed", n: int) -> None:
        """Add n times what `other` has more than `one`."""
        self.bytes_moved += n * (other.bytes_moved - one.bytes_moved)
        self.bytes_taken += n * (other.bytes_taken - one.bytes_taken)
        self.n_operations += n * (other.n_operations - one.n_operations)
        for dtype, flops in other.flops.items():
            self.flops[dtype] = self.flops.get(dtype, 0) + n * (flops - one.flops.get(dtype, 0))

    def add(self, n_bytes: int, flops: int, dtype: torch.dtype) -> None:
        self.bytes_moved += n_bytes
        self.n_operations += 1
        if flops:
            self.flops[dtype] = self.flops.get(dtype, 0) + flops


class Recorder(TorchDispatchMode):
    """Inside `recording`: every storage that comes and goes, by segment, and what is computed.

    Tensors with numbers (ids, positions, starts) stay as they are among themselves: code that looks at their values
    takes the way it takes in a run.
    """

    def __init__(self) -> None:
        super().__init__()
        self.computed = Computed()
        self.sizes: dict[int, int] = {}
        """Bytes of every storage that was ever there, by number."""
        self.events: list[tuple[str, Any]] = []
        """("taken", storage), ("freed", storage) and ("segment", segment), in order."""
        self.born: dict[int, Segment] = {}
        self._segment: Segment = ("before", 0)
        self._numbers: dict[int, int] = {}  # by the address of a storage that is there

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and to see to that torch would import its compiler, for seconds

    def enter(self, name: str, layer: int = 0) -> None:
        """A new segment begins."""
        self._segment = (name, layer)
        self.events.append(("segment", self._segment))

    def number_of(self, tensor: Tensor) -> int:
        """The number of its storage; −1 for one that is not recorded."""
        return self._numbers.get(tensor.untyped_storage()._cdata, -1) if is_pretended(tensor) else -1

    def present(self) -> set[int]:
        """The numbers of the storages that are there now."""
        return set(self._numbers.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _DEVICE and is_pretended(args[0]):
            return args[0].fake_device  # more than half of all calls, most of them from the backward
        kwargs = kwargs or {}
        given = list(_tensors((*args, *kwargs.values())))
        is_seed = func._overloadpacket is torch.ops.aten.randint and not args[-1]  # of dropout in attention: a number
        if is_seed or (given and not any(map(is_pretended, given))):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if func is torch.ops.aten._local_scalar_dense.default and given[0].dtype == torch.bool:
            return False  # whether to warn (of padding, say) is asked of numbers that nobody has
        if func._overloadpacket in _INDEXED:
            args = (args[0], _as_numbers(args[1]), *args[2:])
        made = _grouped(*args, **kwargs) if func is _GROUPED else func(*args, **kwargs)
        results = list(_tensors((made,)))
        new = [tensor for tensor in results if self._take(tensor)]
        if new or func._schema.is_mutable:
            written = new or results
            n_bytes = sum(tensor.numel() * tensor.element_size() for tensor in (*given, *written))
            self.computed.add(n_bytes, _flops(func, args, kwargs, made), _precision(given or results))
        return made

    def told(self, tensors: Sequence[Tensor], flops: int, dtype: torch.dtype) -> None:
        """A kernel of the engine would have run."""
        self.computed.add(sum(tensor.numel() * tensor.element_size() for tensor in tensors), flops, dtype)

    def _take(self, tensor: Tensor) -> bool:
        """Whether the storage of a tensor is new; it is noted, and its end will be."""
        storage = tensor.untyped_storage()
        address = storage._cdata
        if not is_pretended(tensor) or address in self._numbers:
            return False
        number = len(self.sizes)
        self._numbers[address] = number
        self.sizes[number] = storage.nbytes()
        self.computed.bytes_taken += storage.nbytes()
        self.born[number] = self._segment
        self.events.append(("taken", number))
        weakref.finalize(storage, self._freed, address, number).atexit = False
        return True

    def _freed(self, address: int, number: int) -> None:
        self.events.append(("freed", number))
        if self._numbers.get(address) == number:
            del self._numbers[address]


@contextmanager
def recording() -> Iterator[Recorder]:
    """Inside the block new tensors hold nothing, and what is done to them is recorded."""
    recorder = Recorder()
    with FakeTensorMode(allow_non_fake_inputs=True), recorder, listening(recorder.told):
        yield recorder


_DEVICE = torch.ops.prim.device.default
_INDEXED = (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_)


def _as_numbers(indices: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Indices with the places of a mask, where it has numbers, instead of the mask."""
    found: list[Tensor | None] = []
    for index in indices:
        if index is not None and index.dtype == torch.bool and not is_pretended(index):
            with unset_fake_temporarily():
                found += index.nonzero(as_tuple=True)
        else:
            found.append(index)
    return found


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _precision(tensors: Sequence[Tensor]) -> torch.dtype:
    return next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.float32)


def _grouped(a: Any, b: Any, offs: Any, *_: Any, **__: Any) -> Tensor:
    """What the product of each group of rows has for a shape; torch's own answer is for bfloat16 alone.

    a (S, K) and b (experts, K, N) make (S, N); of a (K, S) and b (S, N), whose groups lie along S, comes one product an
    expert.
    """
    return a.new_empty(*offs.shape, len(a), b.shape[-1]) if b.dim() == 2 else a.new_empty(len(a), b.shape[-1])


def _flops(func: Any, args: Any, kwargs: Any, made: Any) -> int:
    packet = func._overloadpacket
    if packet in flop_registry:
        return int(flop_registry[packet](*args, **kwargs, out_val=made))
    if packet in _ATTENTION:
        q, k = args[_ATTENTION[packet][0]], args[_ATTENTION[packet][0] + 1]
        return _ATTENTION[packet][1] * 2 * q.numel() * k.shape[-2]
    if func is _GROUPED:  # each row of a meets one matrix of b, or each of its columns one row
        return 2 * args[0].numel() * args[1].shape[-1]
    return 0


_GROUPED = torch.ops.aten._grouped_mm.default
# torch's table leaves out the kernels of CPUs: where q stands, and how many products of all queries and keys they take
_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (0, 2),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (1, 5),
}
