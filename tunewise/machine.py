"""What this machine has for a process: free memory and cores, the limits of a container and of a scheduler among them.

Of control groups version 2 is read, where it is mounted by default; a container sees its own group there.
"""

import os
from math import ceil
from pathlib import Path

_MEMORY_OF_LINUX = Path("/proc/meminfo")
_CONTAINER = Path("/sys/fs/cgroup")


def free_memory() -> int | None:
    """Bytes that a process may take now without anything being swapped out; where that is not told, those of the whole
    machine, and None where not even they are."""
    known = [n for n in (_memory_of_linux(), _memory_of_container()) if n is not None]
    if known:
        return max(0, min(known))
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # not told on macOS, no such call on Windows
        return None


def n_cores() -> int:
    """Cores that a process may keep busy: those of the machine, those that it was bound to, or those that the share of
    time of a container comes to, whichever are the fewest."""
    try:
        bound = len(os.sched_getaffinity(0))
    except AttributeError:  # no such call on macOS and Windows
        bound = os.cpu_count() or 1
    return max(1, min(os.cpu_count() or 1, bound, _cores_of_container() or bound))


def _memory_of_linux() -> int | None:
    try:
        lines = _MEMORY_OF_LINUX.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _memory_of_container() -> int | None:
    """What is left below the limit; caches, which give way, are not counted as taken, but for files that are kept in
    memory alone (tmpfs, /dev/shm), which are counted among them."""
    try:
        limit = (_CONTAINER / "memory.max").read_text().strip()
        if limit == "max":
            return None
        current = int((_CONTAINER / "memory.current").read_text())
        told = dict(line.split() for line in (_CONTAINER / "memory.stat").read_text().splitlines())
        return int(limit) - current + int(told.get("file", 0)) - int(told.get("shmem", 0))
    except (OSError, ValueError):
        return None


def _cores_of_container() -> int | None:
    """As many as its quota of processor time lasts for, a part of one counting as one."""
    try:
        quota, period = (_CONTAINER / "cpu.max").read_text().split()
        return None if quota == "max" else ceil(int(quota) / int(period))
    except (OSError, ValueError, ZeroDivisionError):
        return None
