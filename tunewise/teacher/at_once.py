"""Many requests at once, on threads: as many as the budget admits, none lost when some of them fail."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue

from tunewise.teacher.budget import Budget
from tunewise.teacher.exchange import Reply, Request
from tunewise.teacher.teacher import Stopping, Unanswered

SECONDS_BETWEEN_LOOKS = 0.1

Ask = Callable[[Request], Reply]
Outcome = tuple[Request, Reply | Exception]


class Stopped(Exception):
    """A request was not sent, or not again, since all are to stop."""


def at_once(
    ask: Ask, requests: Sequence[Request], n_threads: int, budget: Budget, stopping: Stopping, stop: Callable[[], None]
) -> Iterator[tuple[Request, Reply]]:
    """Replies in the order in which they come. `stop` wakes those who wait to send again.

    After the first Unanswered nothing more begins; it is raised when all that was under way is over.
    """
    waiting, n_running = deque(requests), 0
    todo: SimpleQueue[Request | None] = SimpleQueue()
    done: SimpleQueue[Outcome] = SimpleQueue()
    failed: Unanswered | None = None
    threads = [
        # daemons, which a second Ctrl-C does not wait for
        threading.Thread(target=_work, args=(ask, todo, done), daemon=True)
        for _ in range(min(n_threads, len(requests)))
    ]
    for thread in threads:
        thread.start()
    try:
        while True:
            if failed or stopping():
                waiting.clear()
                stop()
            while waiting and n_running < len(threads) and budget.admits(waiting[0]):
                todo.put(waiting.popleft())
                n_running += 1
            if not n_running:
                break
            try:
                request, outcome = done.get(timeout=SECONDS_BETWEEN_LOOKS)
            except Empty:
                continue
            n_running -= 1
            budget.settle(request, outcome if isinstance(outcome, Reply) else None)
            if isinstance(outcome, Reply):
                yield request, outcome
            elif isinstance(outcome, Unanswered):
                failed = failed or outcome
            elif not isinstance(outcome, Stopped):
                raise outcome
    finally:
        stop()
        for _ in threads:
            todo.put(None)
    if failed:
        raise failed


def _work(ask: Ask, todo: "SimpleQueue[Request | None]", done: "SimpleQueue[Outcome]") -> None:
    while (request := todo.get()) is not None:
        try:
            done.put((request, ask(request)))
        except Exception as error:  # told where it is waited for
            done.put((request, error))
