"""Runs in turn in this process, or side by side on one machine: a few processes, each with its own copy of the base and
its share of the cores.

Small models do not fill two threads, which then wait for each other at every operation; two processes of one thread
each get through twice as many runs.
"""

import os
import signal
import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent import futures
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing import Queue, parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

import torch

from tunewise import processes
from tunewise.comparison.outcome import Outcome, run_group
from tunewise.comparison.relay import Begins, Listener, Telling, Told, log_through
from tunewise.engine.backend import n_threads
from tunewise.errors import UserError
from tunewise.files import Held
from tunewise.run import Bases, Recipe, base_of
from tunewise.training import interrupt, reload
from tunewise.training.progress import Watcher
from tunewise.training.sharing import threads_of

SECONDS_TO_SAVE = 60.0  # what a run has to leave a checkpoint when the process that started it is gone
SECONDS_BETWEEN_LOOKS = 0.05  # whether a run has stopped
SECONDS_TO_SPLIT_OFF = 0.2  # a few processes, of one that has imported what they need

# in a worker: the base that its runs share, by how it was loaded, the queue to who started it, where there is a word
# to read once it shall leave, and whether it is between two jobs
_BASES: Bases = {}
_told: Told
_leave: Connection
_IDLE = threading.Event()


@dataclass(frozen=True)
class Job:
    """Runs that one process carries out, and their folders; several share their batches."""

    recipes: Sequence[Recipe]
    folders: Sequence[Path]
    share: float | None = None
    """Of their steps, to which trials are brought; None for whole runs."""

    def carry_out(self, bases: Bases, progress: Watcher) -> list[Outcome] | Held:
        """What came of each, on a base out of those that are known, in this process."""
        return run_group(self.recipes, self.folders, base_of(self.recipes[0], bases), progress, self.share)


class Workers(AbstractContextManager["Workers"]):
    """Where the runs of a comparison are carried out, inside a `with` block."""

    n_workers = 1
    """How many jobs at once."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave; what is under way stops as on Ctrl-C, with a checkpoint."""
        return

    @abstractmethod
    def carry_out(self, jobs: Sequence[Job], begins: Begins) -> Iterator[tuple[int, list[Outcome] | Held]]:
        """Every job, of recipes of one base: its number and what came of each of its runs, in the order in which they
        finish; Held where another process is at one of them. `begins` is called when a job does. The first error ends
        it.
        """


class OneByOne(Workers):
    """In this process, in turn, on the base that is loaded here."""

    def __init__(self, bases: Bases) -> None:
        self._bases = bases

    def carry_out(self, jobs: Sequence[Job], begins: Begins) -> Iterator[tuple[int, list[Outcome] | Held]]:
        """In their order."""
        for number, job in enumerate(jobs):
            yield number, job.carry_out(self._bases, begins(number))


class SideBySide(Workers):
    """In `n_workers` processes of this machine; UserError where one of them is killed.

    With `bases`, those that are loaded here, this process carries runs out itself, as one of them would, until the
    others have imported what they need: for runs that do not take much longer than that.
    """

    def __init__(self, n_workers: int, bases: Bases | None = None) -> None:
        self.n_workers, self._bases = n_workers, bases
        self._has_told = False

    def __enter__(self) -> Self:
        context = processes.context(torch.cuda.is_available())
        if isinstance(context, processes.SplittingOff):
            context.begin_to_import()
            reload.FRESH.come_from(context)
        told: Queue[object] = context.Queue()
        told.cancel_join_thread()  # a worker may be gone in the middle of a word
        self._listener = Listener(told)
        self._leave, self._tell = context.Pipe(duplex=False)
        start = (threads_of(self.n_workers), told, self._leave, dict(os.environ))
        self._pool = ProcessPoolExecutor(self.n_workers, mp_context=context, initializer=_start, initargs=start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._tell_to_leave()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._listener.stop()
        self._tell.close()
        self._leave.close()

    def _tell_to_leave(self) -> None:
        """One word for all workers, which see it and leave it where it is."""
        if not self._has_told:
            self._has_told = True
            self._tell.send_bytes(b"leave")

    def carry_out(self, jobs: Sequence[Job], begins: Begins) -> Iterator[tuple[int, list[Outcome] | Held]]:
        """Each worker takes the next job when it has ended one."""
        self._listener.follow(begins)
        left = deque(enumerate(jobs))
        given: dict[Future[list[Outcome] | Held], int] = {}
        beside = ThreadPoolExecutor(1)
        giving = beside.submit(self._give, left, given)
        try:
            yield from self._carry_out_meanwhile(giving, left, begins)
            giving.result()
            for future in as_completed(given):
                yield given[future], future.result()
        except BrokenProcessPool:
            raise UserError(
                "a worker was killed from outside, as systems do that run out of memory",
                "the same command goes on from the checkpoints; fewer --workers need less memory",
            ) from None
        except BaseException:
            left.clear()
            self._tell_to_leave()
            raise
        finally:
            beside.shutdown(wait=False)

    def _give(self, left: "deque[tuple[int, Job]]", given: dict[Future[list[Outcome] | Held], int]) -> None:
        """Give the workers all that is left once one of them is there, and note what was given."""
        self._pool.submit(os.getpid)
        while first := _taken(left):
            given[self._pool.submit(_carry_out, *first)] = first[0]

    def _carry_out_meanwhile(
        self, giving: Future[None], left: "deque[tuple[int, Job]]", begins: Begins
    ) -> Iterator[tuple[int, list[Outcome] | Held]]:
        """Take jobs from the front until they are given away, where that is not done at once."""
        futures.wait([giving], SECONDS_TO_SPLIT_OFF)
        while self._bases is not None and not giving.done() and (first := _taken(left)):
            number, job = first
            with n_threads(threads_of(self.n_workers)):
                outcomes = job.carry_out(self._bases, begins(number))
            yield number, outcomes


def _taken(left: "deque[tuple[int, Job]]") -> tuple[int, Job] | None:
    """The first of those that two threads take from, or none."""
    try:
        return left.popleft()
    except IndexError:
        return None


def _start(n: int, told: "Queue[object]", leave: Connection, environment: dict[str, str]) -> None:
    global _told, _leave
    _told, _leave = told, leave
    os.environ.update(environment)  # which may have changed since that process was there
    told.cancel_join_thread()  # a worker that is killed in the middle of a word blocks the queue, and nobody's exit
    log_through(told)
    _IDLE.set()
    # Ctrl-C is the parent's to answer, who tells us; during training it is answered with a checkpoint
    processes.ignore_interrupts()
    signal.signal(signal.SIGTERM, _stop)
    threading.Thread(target=_leave_when_told, daemon=True).start()
    threading.Thread(target=_leave_with_the_parent, daemon=True).start()
    torch.set_num_threads(n)


def _stop(number: int, frame: FrameType | None) -> None:
    """SIGTERM where nothing is trained."""
    if _IDLE.is_set():
        os._exit(1)
    raise KeyboardInterrupt


def _leave_when_told() -> None:
    wait([_leave])
    while interrupt.request() and not _IDLE.is_set():  # training ends with a checkpoint
        time.sleep(SECONDS_BETWEEN_LOOKS)
    if not _IDLE.is_set():
        os.kill(os.getpid(), signal.SIGTERM)


def _leave_with_the_parent() -> None:
    """A killed parent takes nobody along by itself: stop as on SIGTERM, which during training leaves a checkpoint."""
    parent = parent_process()
    assert parent is not None, "a worker is started by somebody"
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
    _IDLE.wait(SECONDS_TO_SAVE)
    os._exit(1)


def _carry_out(number: int, job: Job) -> list[Outcome] | Held:
    _IDLE.clear()
    try:
        if _leave.poll():  # a job that was on its way to us
            os._exit(1)
        return job.carry_out(_BASES, Telling(number, _told))
    except (interrupt.Interrupted, KeyboardInterrupt):
        os._exit(1)  # nobody waits for another word of ours
    finally:
        _IDLE.set()
