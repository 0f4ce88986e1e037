"""What another process tells about its runs, steps and log records, told again in this one."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from logging.handlers import QueueHandler
from typing import Any, Protocol

from tunewise.training.progress import Watcher

SECONDS_BETWEEN_STEPS = 0.25  # a small model makes a hundred steps a second, and nobody reads that fast
SECONDS_TO_HEAR = 5.0  # a process that was killed in the middle of a word leaves a queue that cannot be read

Begins = Callable[[int], Watcher]
"""The job of this number has begun; who follows the steps of its runs."""


class Told(Protocol):
    """The queue between the two: that of `multiprocessing` or of a cluster."""

    def put_nowait(self, obj: Any, /) -> None: ...

    def get(self) -> Any: ...


class Telling:
    """In the process of a run: the watcher of job `number`, which tells through `told` what it is told itself."""

    def __init__(self, number: int, told: Told, clock: Callable[[], float] = time.monotonic) -> None:
        self._number, self._told, self._clock = number, told, clock
        self._n_steps, self._n_tokens, self._last = 0, 0, -SECONDS_BETWEEN_STEPS
        self._tell("begins")

    def _tell(self, name: str, *arguments: object) -> None:
        self._told.put_nowait((self._number, name, arguments))

    def started(self, name: str, first_step: int, n_steps: int) -> None:
        self._n_steps = n_steps
        self._tell("started", name, first_step, n_steps)

    def stepped(self, step: int, loss: float, n_tokens: int) -> None:
        """Tells of the last step, and of others now and then, with the tokens of those between."""
        self._n_tokens += n_tokens
        now = self._clock()
        if step == self._n_steps or now - self._last >= SECONDS_BETWEEN_STEPS:
            self._tell("stepped", step, loss, self._n_tokens)
            self._n_tokens, self._last = 0, now

    def told_by_source(self, losses: Mapping[str, float]) -> None:
        """Not shown: a line tells of several runs."""

    def evaluated(self, step: int, score: float, is_best: bool) -> None:
        self._tell("evaluated", step, score, is_best)

    def finished(self) -> None:
        self._tell("finished")


def log_through(told: Told) -> None:
    """In the process of a run: what the package tells by `logging` goes through `told`, and nowhere else."""
    logger = logging.getLogger("tunewise")
    handlers: list[logging.Handler] = [QueueHandler(told)]
    logger.handlers, logger.propagate = handlers, False
    logger.setLevel(logging.INFO)


class Listener:
    """In this process: a thread that passes on what comes through `told`, until `stop`."""

    def __init__(self, told: Told) -> None:
        self._told = told
        self._begins: Begins | None = None
        self._watchers: dict[int, Watcher] = {}
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def follow(self, begins: Begins) -> None:
        """From now on numbers are those of jobs that `begins` knows."""
        self._begins = begins
        self._watchers = {}

    def stop(self) -> None:
        """After all that has been told until now."""
        self._told.put_nowait(None)
        self._thread.join(SECONDS_TO_HEAR)

    def _listen(self) -> None:
        for event in iter(self._told.get, None):
            if isinstance(event, logging.LogRecord):  # told by whatever handlers this process has
                logging.getLogger(event.name).handle(event)
            else:
                self._pass_on(*event)

    def _pass_on(self, number: int, name: str, arguments: tuple[Any, ...]) -> None:
        if name == "begins" and self._begins is not None:
            self._watchers[number] = self._begins(number)
        elif number in self._watchers:
            getattr(self._watchers[number], name)(*arguments)
