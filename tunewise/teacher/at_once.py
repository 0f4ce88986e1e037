"""Many requests at once, on threads: as many as the budget admits, none lost when some of them fail."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from tunewise.teacher.budget import Budget
from tunewise.teacher.exchange import Reply, Request
from tunewise.teacher.teacher import Stopping, Unanswered

SECONDS_BETWEEN_LOOKS = 0.1


class Stopped(Exception):
    """A request was not sent, or not again, since all are to stop."""


def at_once(
    ask: Callable[[Request], Reply],
    requests: Sequence[Request],
    n_threads: int,
    budget: Budget,
    stopping: Stopping,
    stop: Callable[[], None],
) -> Iterator[tuple[Request, Reply]]:
    """Replies in the order in which they come. `stop` wakes those who wait to send again.

    After the first Unanswered nothing more begins; it is raised when all that was under way is over.
    """
    waiting, running = deque(requests), {}
    failed: Unanswered | None = None
    with ThreadPoolExecutor(n_threads) as pool:
        try:
            while True:
                if failed or stopping():
                    waiting.clear()
                    stop()
                while waiting and len(running) < n_threads and budget.admits(waiting[0]):
                    request = waiting.popleft()
                    running[pool.submit(ask, request)] = request
                if not running:
                    break
                for future in wait(running, SECONDS_BETWEEN_LOOKS, FIRST_COMPLETED).done:
                    request = running.pop(future)
                    try:
                        reply = _result(future)
                    except Unanswered as error:
                        failed, reply = failed or error, None
                    budget.settle(request, reply)
                    if reply is not None:
                        yield request, reply
        finally:
            stop()
    if failed:
        raise failed


def _result(future: Future[Reply]) -> Reply | None:
    try:
        return future.result()
    except Stopped:
        return None
