"""How processes of ours begin beside this one: split off one that has imported all they need, or started anew.

Neither runs the program that calls us, which multiprocessing otherwise does in each, so that what is pickled by a name
of that program is found: a script would have to hide its calls behind `if __name__ == "__main__"`, and its imports
would be paid for once more. What our processes are given is ours.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker, spawn
from multiprocessing.context import BaseContext, ForkServerContext, ForkServerProcess, SpawnContext, SpawnProcess
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tunewise.machine import n_cores

IMPORTED = "tunewise.comparison.imported"
CAN_SPLIT = sys.platform == "linux"
"""Elsewhere libraries start threads as they are imported, and a process that is split off cannot use them."""
_LAUNCHES = threading.Lock()
_GPUS = tuple(map(Path, ("/dev/nvidiactl", "/dev/kfd")))


class _SplitOff(ForkServerProcess):
    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Any:
        with _without_main():
            return ForkServerProcess._Popen(process_obj)


class _Started(SpawnProcess):
    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Any:
        with _without_main(), _out_of_reach():
            return SpawnProcess._Popen(process_obj)


class SplittingOff(ForkServerContext):
    """Of processes that are split off one that has imported and read nothing."""

    Process = _SplitOff

    def begin_to_import(self) -> None:
        """Start the process that others are split off, where there is none yet. Ctrl-C does not reach it, nor what is
        split off it."""
        with _out_of_reach():
            forkserver.ensure_running()


class Starting(SpawnContext):
    """Of processes that import all they need."""

    Process = _Started


def context(has_gpu: bool) -> BaseContext:
    """How a process begins here; a GPU may be closed to what was split off."""
    if has_gpu or not CAN_SPLIT:
        return Starting()
    found = SplittingOff()
    found.set_forkserver_preload([IMPORTED])
    return found


def import_meanwhile(n_workers: int | None) -> None:
    """Start the process that others are split off, where so many are wanted and there is one: it imports for seconds,
    in which this one has other things to do."""
    if (n_workers or 1) > 1 and spare_cores():
        kind = context(has_gpu=any(device.exists() for device in _GPUS))
        if isinstance(kind, SplittingOff):
            kind.begin_to_import()


def ignore_interrupts() -> None:
    """Let Ctrl-C pass by this process, whoever wants to be told of it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "win32":  # which has no such masks
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def spare_cores() -> int:
    """Cores that a process of ours may use beside this one; none where a person allows a process one thread."""
    return 0 if os.environ.get("OMP_NUM_THREADS") == "1" else n_cores() - 1


@contextmanager
def _out_of_reach() -> Iterator[None]:
    """Ctrl-C does not reach what is started inside the block."""
    if sys.platform == "win32":  # which has no such masks
        yield
        return
    resource_tracker.ensure_running()  # which would let signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _without_main() -> Iterator[None]:
    """Inside the block no process that this thread starts is told of the program that calls us; what other threads do
    meanwhile is as ever."""
    ours = threading.get_ident()
    with _LAUNCHES:
        told = spawn.get_preparation_data

        def told_apart(name: str) -> dict[str, Any]:
            found = told(name)
            is_kept = threading.get_ident() != ours
            return {key: value for key, value in found.items() if is_kept or not key.startswith("init_main_from")}

        spawn.get_preparation_data = told_apart  # ty: ignore[invalid-assignment]
        try:
            yield
        finally:
            spawn.get_preparation_data = told
