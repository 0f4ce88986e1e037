"""Runs side by side on one machine: a few processes, each with its own copy of the base and its share of the cores.

Small models do not fill two threads, which then wait for each other at every operation; two processes of one thread
each get through twice as many runs.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from logging.handlers import QueueHandler, QueueListener
from multiprocessing import Queue, get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path

import torch

from tunewise.comparison.outcome import Outcome, run_group
from tunewise.models.load import Base
from tunewise.run import Recipe, base_of
from tunewise.training.sharing import threads_of

SECONDS_TO_SAVE = 60.0  # what a run has to leave a checkpoint when the process that started it is gone

_BASES: dict[str, Base] = {}  # in a worker: the base that its runs share, by the head it was asked for


Job = tuple[Sequence[Recipe], Sequence[Path]]
"""Runs that one process carries out, and their folders; several share their batches."""


def run_side_by_side(
    jobs: Sequence[Job], n_workers: int, share: float | None = None
) -> Iterator[tuple[int, list[Outcome]]]:
    """Carry every job out; (its number, what came of each of its runs) in the order in which they finish.

    With a `share` they are trials, brought to that share of their steps.
    The recipes share one base. The first error ends it, after the runs under way have stopped as they do on Ctrl-C:
    with a checkpoint left behind.
    """
    n_threads = threads_of(n_workers)
    context = get_context("spawn")
    told: Queue[logging.LogRecord] = context.Queue()
    listener = QueueListener(told, _Relay())
    start = (n_threads, told)
    pool = ProcessPoolExecutor(n_workers, mp_context=context, initializer=_start, initargs=start)
    listener.start()
    try:
        numbers = {pool.submit(_carry_out, *job, share): number for number, job in enumerate(jobs)}
        for future in as_completed(numbers):
            yield numbers[future], future.result()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        listener.stop()


class _Relay(logging.Handler):
    """What a worker tells by `logging` is told here, by whatever handlers this process has."""

    def emit(self, record: logging.LogRecord) -> None:
        logging.getLogger(record.name).handle(record)


def _start(n_threads: int, told: "Queue[logging.LogRecord]") -> None:
    logger = logging.getLogger("tunewise")
    logger.addHandler(QueueHandler(told))
    logger.setLevel(logging.INFO)
    logger.propagate = False
    # between runs Ctrl-C is the parent's to answer; during one, the training loop answers it with a checkpoint
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_the_parent, daemon=True).start()
    torch.set_num_threads(n_threads)


def _leave_with_the_parent() -> None:
    """A killed parent takes nobody along by itself: stop as on SIGTERM, which during training leaves a checkpoint."""
    parent = parent_process()
    assert parent is not None, "a worker is started by somebody"
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SECONDS_TO_SAVE)
    os._exit(1)


def _carry_out(recipes: Sequence[Recipe], folders: Sequence[Path], share: float | None) -> list[Outcome]:
    return run_group(recipes, folders, base_of(recipes[0], _BASES), share=share)
