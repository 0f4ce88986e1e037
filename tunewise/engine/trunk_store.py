"""Where what leaves a frozen trunk is kept: with the base, in memory first and then in mapped files, up to a cap.

TUNEWISE_TRUNK_MEMORY_GB and TUNEWISE_TRUNK_DISK_GB set the caps; by default a quarter of what is free of each.
"""

import shutil
import weakref
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel

from tunewise.cache import allowed_bytes, cache_folder
from tunewise.errors import UserError
from tunewise.machine import free_memory
from tunewise.models.aside import mapped

UNTOLD = 4 << 30
"""Bytes of free memory, where the system does not tell them."""
_STORES: "weakref.WeakKeyDictionary[PreTrainedModel, Store]" = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Block:
    """The states of several rows behind one another."""

    states: Tensor
    """(N, d), of all rows."""
    starts: tuple[int, ...]
    """The first state of each row, and N."""
    is_mapped: bool

    def row(self, number: int) -> Tensor:
        """The states of one row: a view."""
        return self.states[self.starts[number] : self.starts[number + 1]]


@dataclass
class Store:
    """Blocks by trunk and name; those of the trunk used longest ago make room first."""

    memory_bytes: int
    disk_bytes: int
    folder: Path
    _blocks: dict[str, dict[str, Block]] = field(default_factory=dict)
    _in_memory: int = 0
    _mapped: int = 0

    def get(self, trunk: str, name: str) -> Block | None:
        """The block of that name, where it is kept."""
        blocks = self._blocks.pop(trunk, {})
        self._blocks[trunk] = blocks  # the last used stands last
        return blocks.get(name)

    def put(self, trunk: str, name: str, states: Tensor, starts: tuple[int, ...]) -> Block | None:
        """Keep a block, bit for bit; None where there is no room beside the other blocks of this trunk."""
        while (is_mapped := self._place(states.nbytes)) is None:
            others = [other for other in self._blocks if other != trunk]
            if not others:
                return None
            for block in self._blocks.pop(others[0]).values():
                self._count(block, -1)
        try:
            kept = mapped({name: states}, self.folder)[name] if is_mapped else states.clone()
        except UserError:  # a full disk
            return None
        block = Block(kept, starts, is_mapped)
        self._blocks.setdefault(trunk, {})[name] = block
        self._count(block, 1)
        return block

    def used_bytes(self) -> tuple[int, int]:
        """In memory, and in mapped files."""
        return self._in_memory, self._mapped

    def bytes_of_others(self, trunk: str) -> int:
        """In memory, for other trunks than this one."""
        blocks = [block for name, of_trunk in self._blocks.items() if name != trunk for block in of_trunk.values()]
        return sum(block.states.nbytes for block in blocks if not block.is_mapped)

    def _count(self, block: Block, sign: int) -> None:
        if block.is_mapped:
            self._mapped += sign * block.states.nbytes
        else:
            self._in_memory += sign * block.states.nbytes

    def _place(self, n_bytes: int) -> bool | None:
        """Whether so many bytes go to the disk; None where there is room nowhere."""
        if self._in_memory + n_bytes <= self.memory_bytes:
            return False
        return True if self._mapped + n_bytes <= self.disk_bytes else None


def store_of(model: PreTrainedModel) -> Store:
    """The store of this base, which goes with it: seeds, methods and evaluations of one process share it."""
    if model not in _STORES:
        _STORES[model] = Store(*caps(), cache_folder())
    return _STORES[model]


def caps() -> tuple[int, int]:
    """What may be kept on this machine now: bytes in memory, and in mapped files."""
    free = free_memory()
    memory = allowed_bytes("TUNEWISE_TRUNK_MEMORY_GB", UNTOLD if free is None else free)
    return memory, allowed_bytes("TUNEWISE_TRUNK_DISK_GB", shutil.disk_usage(cache_folder()).free)
