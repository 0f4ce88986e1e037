"""The dtype a base is loaded in: bfloat16 where this machine multiplies it natively, measured, never assumed."""

import functools
import time

import torch

from tunewise.errors import UserError, unknown

DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float64": torch.float64,
    "float16": torch.float16,
    "fp16": torch.float16,
}


def choose_dtype(name: str, device: torch.device, in_16_bits: bool = True) -> torch.dtype:
    """The dtype for `name`, where "auto" is measured and float16 on a CPU becomes bfloat16 or float32.

    A CPU multiplies float16 a hundred to a thousand times slower than either, so it is never used there. Raises
    UserError where 16 bits are asked for of a base that does not run in them.
    """
    if not in_16_bits and name == "auto":
        return torch.float32
    if not in_16_bits and name in DTYPES and DTYPES[name].itemsize == 2:
        raise UserError(f"transformers does not run this base in 16 bits, and {name} was asked for", "dtype=float32")
    if name == "auto":
        return _fastest(device)
    if name not in DTYPES:
        raise unknown("dtype", name, ("auto", *DTYPES))
    if DTYPES[name] is torch.float16 and device.type == "cpu":
        return _fastest(device)
    return DTYPES[name]


def _fastest(device: torch.device) -> torch.dtype:
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if _bfloat16_gain() > 1.5 else torch.float32


@functools.cache
def _bfloat16_gain() -> float:
    """How many times faster a 512³ matrix product runs in bfloat16 than in float32 on this CPU (about 20 ms)."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.ones(512, 512, dtype=dtype)
        a @ a  # the first product pays for setting up the kernel
        times = []
        for _ in range(5):
            start = time.perf_counter()
            a @ a
            times.append(time.perf_counter() - start)
        seconds[dtype] = min(times)
    return seconds[torch.float32] / seconds[torch.bfloat16]
