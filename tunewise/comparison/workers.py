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
from typing import Any

import torch

from tunewise.models.load import Base
from tunewise.run import Recipe, base_of, run

SECONDS_TO_SAVE = 60.0  # what a run has to leave a checkpoint when the process that started it is gone

_BASES: dict[str, Base] = {}  # in a worker: the base that its runs share, by the head it was asked for


def run_side_by_side(
    recipes: Sequence[Recipe], folders: Sequence[Path], n_workers: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Carry every recipe out into its folder; (number of the run, its metrics) in the order in which they finish.

    The recipes share one base. The first error ends it, after the runs under way have stopped as they do on Ctrl-C:
    with a checkpoint left behind.
    """
    n_threads = max(1, (os.cpu_count() or 1) // n_workers)
    context = get_context("spawn")
    told: Queue[logging.LogRecord] = context.Queue()
    listener = QueueListener(told, _Relay())
    start = (n_threads, told)
    pool = ProcessPoolExecutor(n_workers, mp_context=context, initializer=_start, initargs=start)
    listener.start()
    try:
        numbers = {
            pool.submit(_carry_out, recipe, folder): number
            for number, (recipe, folder) in enumerate(zip(recipes, folders, strict=True))
        }
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


def _carry_out(recipe: Recipe, folder: Path) -> dict[str, Any]:
    return run(recipe, folder, base=base_of(recipe, _BASES), prove=False)
