"""How this machine multiplies fastest: measured once, kept in the user's cache folder, chosen while a model runs.

float32 products go through oneDNN where it is faster than the library torch would take and as accurate (on AMD
processors that library runs AVX2 code); memory that is given back is kept instead of being faulted in again.
"""

import ctypes
import hashlib
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tunewise import files
from tunewise.cache import cache_folder
from tunewise.engine import gpu
from tunewise.engine.denormals import flushed
from tunewise.engine.native.build import library, processor, why_not
from tunewise.models.device import why_chosen

FASTER = 1.1
"""oneDNN has to be so many times faster: figures scatter, and a choice that flips changes the last bits of a run."""
ACCURATE = 3e-6
"""The largest error of a float32 product, over its largest entry."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_TOP_PAD = -1, -3, -2  # malloc.h
KEPT_BYTES = 1 << 30
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Backend:
    """What was measured here, by one count of threads."""

    threads: int
    gflops: dict[str, float]
    """Of a matrix product 768 × 576 by 576 × 1536, by how it is made: float32, float32 through oneDNN, bfloat16."""
    gigabytes_per_second: float
    """Of copying 64 MiB, reads and writes together."""
    onednn_error: float
    """The largest error of a float32 product through oneDNN, over its largest entry."""
    onednn: bool
    """Whether float32 products go through oneDNN."""

    def gflops_in(self, dtype: torch.dtype) -> float:
        """Of products as they are made here in this precision; of one that was not measured, as in float32."""
        if dtype == torch.bfloat16:
            return self.gflops["bfloat16"]
        return self.gflops["float32 through oneDNN" if self.onednn else "float32"]


@contextmanager
def chosen(device: torch.device = CPU) -> Iterator[None]:
    """Inside the block a model on `device` runs as is fastest here; as it was behind it, for whoever else computes in
    this process.

    Turned off by TUNEWISE_BACKEND=0; on a GPU there is nothing to choose, and float32 stays float32.
    """
    if device.type != "cpu" or is_off():
        with flushed():
            yield
        return
    keep_pages()
    before = torch.get_float32_matmul_precision()
    if backend().onednn:
        torch.set_float32_matmul_precision("medium")
    try:
        with flushed():
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def is_off() -> bool:
    """Whether TUNEWISE_BACKEND=0 leaves everything as torch has it."""
    return os.environ.get("TUNEWISE_BACKEND") == "0"


@contextmanager
def n_threads(n: int) -> Iterator[None]:
    """So many threads for what this process computes inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def keep_pages() -> bool:
    """Ask the C library to keep memory that is freed, for the rest of the process; False where it knows no such thing.

    Each step frees and takes the same activations; pages that went back to the kernel would have to be zeroed anew.
    """
    if not _has_glibc():
        return False
    libc = ctypes.CDLL(None)
    wanted = {M_MMAP_THRESHOLD: KEPT_BYTES, M_TRIM_THRESHOLD: 2 * KEPT_BYTES, M_TOP_PAD: 64 << 20}
    return all(libc.mallopt(name, value) == 1 for name, value in wanted.items())


def give_pages_back() -> None:
    """Return what is freed to the kernel now, so that the process's size is what it uses."""
    if _has_glibc():
        ctypes.CDLL(None).malloc_trim(0)


def _has_glibc() -> bool:
    return platform.system() == "Linux" and platform.libc_ver()[0] == "glibc"


@cache
def backend() -> Backend:
    """What was measured on this machine, with these versions and as many threads; measured now where it was not yet."""
    threads = torch.get_num_threads()
    told = [processor(), platform.platform(), torch.__version__, str(threads)]
    digest = hashlib.sha256("\0".join(told).encode()).hexdigest()[:16]
    kept = cache_folder() / f"backend-{digest}.json"
    if not kept.is_file():
        found = measure()
        if not kept.is_file():  # the first of two processes decides for both
            files.write_json(kept, asdict(found))
    content = files.read_json(kept)
    assert isinstance(content, dict), kept
    return Backend(**content)


def measure() -> Backend:
    """Measure it, in about a second."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(768, 576, generator=generator), torch.randn(1536, 576, generator=generator)
    n_operations = 2 * a.shape[0] * a.shape[1] * b.shape[0]
    exact = a.double() @ b.double().T
    narrow = a.bfloat16(), b.bfloat16()
    source = torch.ones(16 << 20)
    target = torch.empty_like(source)
    seconds = _best_seconds(
        {
            "float32": lambda: _product(a, b, "highest"),
            "float32 through oneDNN": lambda: _product(a, b, "medium"),
            "bfloat16": lambda: _product(*narrow, "highest"),
            "copy": lambda: target.copy_(source),
        }
    )
    error = float((_product(a, b, "medium") - exact).abs().max() / exact.abs().max())
    bandwidth = 2 * source.nbytes / 1e9 / seconds.pop("copy")
    gflops = {name: n_operations / 1e9 / each for name, each in seconds.items()}
    is_faster = gflops["float32 through oneDNN"] > FASTER * gflops["float32"]
    rounded = {name: round(value, 1) for name, value in gflops.items()}
    return Backend(torch.get_num_threads(), rounded, round(bandwidth, 1), error, is_faster and error < ACCURATE)


def told(again: bool = False) -> dict[str, Any]:
    """What was chosen and why, for people; `again` measures anew, as on a machine that was busy the first time."""
    if again:
        for kept in cache_folder().glob("backend-*.json"):
            kept.unlink()
        backend.cache_clear()
    found = backend()
    speeds = found.gflops
    ratio = speeds["float32 through oneDNN"] / speeds["float32"]
    route = "through oneDNN" if found.onednn else "as torch makes them"
    return {
        "processor": platform.processor() or platform.machine(),
        "torch": version("torch"),
        "transformers": version("transformers"),
        "device of runs": why_chosen(),
        "threads": found.threads,
        "waiting threads": os.environ.get("OMP_WAIT_POLICY", "spin (set OMP_WAIT_POLICY=passive on a shared machine)"),
        "matrix products, GFLOP/s": found.gflops,
        "copying, GB/s": found.gigabytes_per_second,
        "float32 products": f"{route}: oneDNN is {ratio:.2f} times as fast, relative error {found.onednn_error:.1e}",
        "freed memory": "kept" if keep_pages() else "as the C library does",
        "attention of packed rows": why_not() or f"native kernel, {Path(str(library()._name)).name}",
        "weights in 4 and 8 bits": f"by {'bitsandbytes: ' + why_not() if why_not() else 'native kernel'}",
        **gpu.told(),
    }


def _product(a: torch.Tensor, b: torch.Tensor, precision: str) -> torch.Tensor:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        return torch.nn.functional.linear(a, b)
    finally:
        torch.set_float32_matmul_precision(before)


def _best_seconds(jobs: dict[str, Callable[[], object]], rounds: int = 25) -> dict[str, float]:
    """The best time of each, taken in turn, so that whatever else the machine does meets all alike."""
    best = dict.fromkeys(jobs, float("inf"))
    for number in range(rounds + 2):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            if number > 1:  # two rounds warm up
                best[name] = min(best[name], time.perf_counter() - start)
    return best
