"""The devices a plan is made for: what they hold, and how fast they multiply and read. A table, or this machine.

The table is of the vendors' data sheets: memory as it is sold, products without sparsity. Of what a data sheet says a
program gets a share, and plans count with that; of this machine speeds are measured, and nothing is taken off.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from tunewise.engine import gpu
from tunewise.engine.backend import backend
from tunewise.errors import UserError, unknown
from tunewise.machine import free_memory
from tunewise.models.device import choose_device

MEMORY_SHARE = 0.96
"""Of a card's memory: the rest is the driver's, the context's and the libraries'."""
PRODUCT_SHARE = 0.7
"""Of the products of a data sheet, for matrices as large as a model's."""
COPY_SHARE = 0.85
"""Of the bandwidth of a data sheet."""
GPU_OPERATION_SECONDS, CPU_OPERATION_SECONDS = 8e-6, 25e-6
"""What torch takes for an operation beside the arithmetic, in eager mode."""

# GiB, TFLOP/s in bfloat16 with float32 sums (0: none natively), TFLOP/s in float32, GB/s
_CARDS: dict[str, tuple[float, float, float, float]] = {
    "t4": (16, 0, 8.1, 320),
    "v100-32": (32, 0, 15.7, 900),
    "rtx3090": (24, 71, 35.6, 936),
    "rtx4080": (16, 97.5, 48.7, 717),
    "rtx4090": (24, 165.2, 82.6, 1008),
    "rtx5090": (32, 209.5, 104.8, 1792),
    "l4": (24, 121, 30.3, 300),
    "a10": (24, 125, 31.2, 600),
    "a40": (48, 149.7, 37.4, 696),
    "a6000": (48, 154.8, 38.7, 768),
    "l40s": (48, 362, 91.6, 864),
    "a100-40": (40, 312, 19.5, 1555),
    "a100-80": (80, 312, 19.5, 2039),
    "h100": (80, 989, 67, 3350),
    "h200": (141, 989, 67, 4800),
    "b200": (180, 2250, 80, 8000),
    "mi300x": (192, 1307, 163.4, 5300),
}
NAMES = ("auto", "cpu", *_CARDS)
_MEMORY_ALONE = re.compile(r"(\d+(?:\.\d+)?) ?(GB|GiB|G|TB)", re.IGNORECASE)
_UNITS = {"gb": 10**9, "g": 10**9, "gib": 2**30, "tb": 10**12}


@dataclass(frozen=True)
class Device:
    """What a plan has to know of a device."""

    name: str
    type: str
    """cuda or cpu, as torch calls it: which kernels run, and what they keep."""
    memory_bytes: int
    """For a process to take."""
    flops: Mapping[torch.dtype, float] = field(default_factory=dict)
    """Operations of matrix products in a second; empty where only the memory is known."""
    bytes_per_second: float = 0.0
    operation_seconds: float = 0.0
    """For each operation, however small."""
    is_here: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """What a base is loaded in: bfloat16, unless this device would have to emulate it."""
        return torch.bfloat16 if torch.bfloat16 in self.flops or not self.flops else torch.float32

    def flops_of(self, dtype: torch.dtype) -> float:
        """Of products in a dtype; one that nothing is known of runs as float32 does."""
        return self.flops.get(dtype, self.flops[torch.float32])


def device_named(name: str = "auto") -> Device:
    """The device of that name: one of the table, `cpu`, `auto` for what a run takes here, or memory alone as in 24GB.

    UserError for any other, and where this system does not tell its memory.
    """
    wanted = name.strip().lower()
    if wanted == "auto":
        device = choose_device()
        return _gpu_here(device) if device.type == "cuda" else _cpu_here()
    if wanted == "cpu":
        return _cpu_here()
    if found := _MEMORY_ALONE.fullmatch(wanted):
        n_bytes = int(float(found[1]) * _UNITS[found[2]])
        if n_bytes == 0:
            raise UserError(f"a device of {name} holds nothing", "--device 24GB")
        return Device(f"{found[1]} {_WRITTEN[found[2]]}", "cuda", n_bytes)
    card = wanted.replace(" ", "").replace("_", "-")
    if card not in _CARDS:
        error = unknown("device", name, NAMES)
        raise UserError(error.message, f"{error.hint}; or its memory alone: 24GB")
    gibibytes, bfloat16, float32, gigabytes_per_second = _CARDS[card]
    products = {torch.bfloat16: bfloat16, torch.float16: bfloat16, torch.float32: float32}
    return Device(
        card,
        "cuda",
        int(MEMORY_SHARE * gibibytes * 2**30),
        {dtype: PRODUCT_SHARE * each * 1e12 for dtype, each in products.items() if each},
        COPY_SHARE * gigabytes_per_second * 1e9,
        GPU_OPERATION_SECONDS,
    )


def larger_than(n_bytes: int) -> list[str]:
    """Names of the table's devices that hold so much, the smallest first."""
    sizes = {name: MEMORY_SHARE * card[0] * 2**30 for name, card in _CARDS.items()}
    return sorted((name for name in sizes if sizes[name] >= n_bytes), key=lambda name: sizes[name])


_WRITTEN = {"gb": "GB", "g": "GB", "gib": "GiB", "tb": "TB"}


def _cpu_here() -> Device:
    measured = backend()
    return Device(
        "cpu",
        "cpu",
        _memory_here(),
        {dtype: 1e9 * measured.gflops_in(dtype) for dtype in (torch.float32, torch.bfloat16)},
        1e9 * measured.gigabytes_per_second,
        CPU_OPERATION_SECONDS,
        is_here=True,
    )


def _gpu_here(device: torch.device) -> Device:
    measured = gpu.measure(device)
    free, _ = torch.cuda.mem_get_info(device)
    products = {torch.bfloat16: measured.teraflops, torch.float16: measured.teraflops}
    # of float32 nothing is measured: a card of the last years makes a tenth as many products in it
    speeds = {**products, torch.float32: measured.teraflops / 10}
    return Device(
        measured.name,
        "cuda",
        free,
        {dtype: 1e12 * each for dtype, each in speeds.items()},
        1e9 * measured.gigabytes_per_second,
        GPU_OPERATION_SECONDS,
        is_here=True,
    )


def _memory_here() -> int:
    found = free_memory()
    if found is None:
        raise UserError("this system does not tell how much memory it has", "say it: --device 16GB")
    return found
