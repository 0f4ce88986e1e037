"""The peak memory of a stretch of work in this process."""

import os
import resource
import sys
from pathlib import Path

import torch

from tunewise.engine.backend import give_pages_back

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


class Peak:
    """Measures the peak from now on: `bytes()` any time later.

    On CUDA it is what torch allocated on the device; on Linux the process's resident memory since the reset; where
    that cannot be reset (`measure` says so) it is the highest since the process started. What was freed before is in
    it, unless it is to begin `anew`.
    """

    def __init__(self, device: torch.device, *, anew: bool = True) -> None:
        self._device = device
        if anew:
            give_pages_back()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.measure = "torch.cuda.max_memory_allocated, reset at the start"
        elif _reset_resident_peak():
            self.measure = "VmHWM of the process, reset at the start"
        else:
            self.measure = "ru_maxrss of the process since it was started"
        self._before = self._present()

    def _present(self) -> int | None:
        if self._device.type == "cuda":
            return torch.cuda.memory_allocated(self._device)
        return _resident_peak() if self.measure.startswith("VmHWM") else None

    def own_bytes(self) -> int | None:
        """The peak above what was there when it began; None where this system does not tell that."""
        return None if self._before is None else max(0, self.bytes() - self._before)

    def bytes(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        if self.measure.startswith("VmHWM"):
            return _resident_peak()
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _reset_resident_peak() -> bool:
    try:
        clear = os.open(_CLEAR, os.O_WRONLY)
        try:
            os.write(clear, b"5")  # resets VmHWM: proc(5)
        finally:
            os.close(clear)
        return _resident_peak() > 0
    except OSError:
        return False


def _resident_peak() -> int:
    line = next((line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:")), "VmHWM: 0 kB")
    return int(line.split()[1]) * 1024
