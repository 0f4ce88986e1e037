"""How fast a device multiplies and copies: what `tunewise doctor` tells of a GPU, and benchmarks take for its peak."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from tunewise.engine.attention import why_not_flash
from tunewise.engine.native.attention import Pattern

SIZE = 8192
"""Of the square matrices that are multiplied: large enough for the peak of any GPU, half a second in all."""
HEADS = 32, 8, 64
"""Query heads, key-value heads and their width, as a model of a billion parameters has them."""


@dataclass(frozen=True)
class Speeds:
    """What was measured."""

    name: str
    teraflops: float
    """Of a product of two square matrices in bfloat16."""
    gigabytes_per_second: float
    """Of copying a matrix, reads and writes together."""


def measure(device: torch.device, size: int = SIZE) -> Speeds:
    """The best of ten rounds of one product, and of one copy, on a device that does nothing else."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(size, size, generator=generator).to(device, torch.bfloat16) for _ in range(2))
    product, copied = torch.empty_like(a), torch.empty_like(a)
    seconds = _best_seconds(device, lambda: torch.mm(a, b, out=product))
    bandwidth = 2 * a.nbytes / 1e9 / _best_seconds(device, lambda: copied.copy_(a))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return Speeds(name, round(2 * size**3 / 1e12 / seconds, 3), round(bandwidth, 1))


def told() -> dict[str, str]:
    """Of every GPU that torch finds, for people."""
    found = {}
    for number in range(torch.cuda.device_count()):
        device = torch.device("cuda", number)
        speeds = measure(device)
        gigabytes = torch.cuda.get_device_properties(device).total_memory / 1e9
        reason = why_not_flash(device, torch.bfloat16, HEADS, Pattern(HEADS[2] ** -0.5))
        found[f"GPU {number}"] = (
            f"{speeds.name}, {gigabytes:.0f} GB; products in bfloat16 {speeds.teraflops:.0f} TFLOP/s, "
            f"copying {speeds.gigabytes_per_second:.0f} GB/s; packed rows: {reason or 'flash attention'}"
        )
    return found or {"GPU": "none that torch finds"}


def _best_seconds(device: torch.device, job: Callable[[], object], rounds: int = 10) -> float:
    def finished() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    best = float("inf")
    for number in range(rounds + 2):
        start = finished()
        job()
        taken = finished() - start
        best = min(best, taken) if number > 1 else best  # two rounds warm up
    return best
