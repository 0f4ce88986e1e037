"""What a run in another process tells, as it comes through a queue."""

import logging
import queue

from tunewise.comparison.relay import SECONDS_BETWEEN_STEPS, Listener, Telling, log_through
from tunewise.training.progress import Silent


class Told(queue.Queue):
    def words(self):
        """All that came, in order."""
        return [self.get_nowait() for _ in range(self.qsize())]


def test_steps_are_told_now_and_then_and_no_token_is_lost():
    told, now = Told(), 0.0
    watcher = Telling(7, told, lambda: now)
    watcher.started("lora", 0, 100)
    for step in range(1, 101):
        watcher.stepped(step, 1 / step, 10)
        now += SECONDS_BETWEEN_STEPS / 8
    watcher.evaluated(100, 50.0, True)
    watcher.finished()
    words = told.words()
    assert {number for number, *_ in words} == {7}
    assert [name for _, name, _ in words if name != "stepped"] == ["begins", "started", "evaluated", "finished"]
    steps = [arguments for _, name, arguments in words if name == "stepped"]
    assert [step for step, *_ in steps] == [*range(1, 98, 8), 100]
    assert sum(n_tokens for *_, n_tokens in steps) == 1000


def test_a_listener_passes_words_on_to_the_watcher_of_their_job(caplog):
    heard = []

    class Hearing(Silent):
        def __init__(self, number):
            self._number = number
            heard.append((number, "begins"))

        def stepped(self, step, loss, n_tokens):
            heard.append((self._number, step))

    told = Told()
    listener = Listener(told)
    listener.follow(Hearing)
    first, second = Telling(0, told), Telling(1, told)
    for watcher, step in ((first, 1), (second, 2), (first, 3)):
        watcher.started("lora", 0, step)  # whose last step it is: that is always told
        watcher.stepped(step, 0.5, 10)
    told.put((5, "stepped", (9, 0.5, 10)))  # of a job that nobody has heard to begin
    told.put(logging.LogRecord("tunewise.run", logging.WARNING, "", 0, "%d rows cut", (3,), None))
    listener.stop()
    assert heard == [(0, "begins"), (1, "begins"), (0, 1), (1, 2), (0, 3)]
    assert "3 rows cut" in caplog.text


def test_what_a_worker_logs_goes_through_the_queue_alone():
    logger, told = logging.getLogger("tunewise"), Told()
    before = logger.handlers, logger.propagate, logger.level
    try:
        log_through(told)
        logging.getLogger("tunewise.run").info("%s: %d rows", "reviews", 3)
    finally:
        logger.handlers, logger.propagate, _ = before
        logger.setLevel(before[2])
    (record,) = told.words()
    assert (record.name, record.getMessage()) == ("tunewise.run", "reviews: 3 rows")
