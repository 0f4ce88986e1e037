"""Where a run asks its teacher: each request once, whatever stops the run, and why it stopped."""

import logging
from collections.abc import Callable, Sequence
from itertools import takewhile

from tunewise.teacher.budget import Budget
from tunewise.teacher.exchange import Reply, Request
from tunewise.teacher.journal import Journal, ask_all
from tunewise.teacher.teacher import Teacher, Unanswered
from tunewise.training.interrupt import Interrupts

logger = logging.getLogger(__name__)

Watcher = Callable[[int, Budget], None]
"""Told how many rows are kept, and what was spent, whenever either changes."""


class Desk:
    """Asks the teacher, and knows whether to go on."""

    def __init__(
        self, teacher: Teacher, journal: Journal, budget: Budget, interrupts: Interrupts, told: Watcher
    ) -> None:
        self.teacher, self.budget, self._journal, self._interrupts = teacher, budget, journal, interrupts
        self._told, self._n_kept = told, 0
        self.why_stopped = ""
        self.failure: Unanswered | None = None

    @property
    def is_open(self) -> bool:
        return not self.why_stopped

    def ask(self, requests: Sequence[Request]) -> list[Reply]:
        """The replies to the requests, in order, up to the first that was not answered; then the desk is closed.

        What was answered behind that one is in the journal, and used when the run goes on: so the rows of a run that
        was stopped are the first of those that it ends with.
        """
        replies = self._replies(requests)
        return [reply for reply in takewhile(lambda reply: reply is not None, replies) if reply is not None]

    def _replies(self, requests: Sequence[Request]) -> list[Reply | None]:
        try:
            replies = ask_all(requests, self.teacher, self._journal, self.budget, self._stopping)
        except Unanswered as error:
            self.failure = self.failure or error
            self.close(error.message)
            return [self._journal.known(request, self.teacher.name) for request in requests]
        missing = next((request for request, reply in zip(requests, replies) if reply is None), None)
        if missing is not None:
            interrupted = f"{self._interrupts.requested} came" if self._interrupts.requested else ""
            self.close(interrupted or self.budget.why_not(missing) or "no request is to be sent any more")
        return replies

    def kept(self, n: int) -> None:
        """So many rows are kept by now."""
        self._n_kept = n
        self._told(n, self.budget)

    def close(self, why: str) -> None:
        """Send nothing any more; the first reason stands."""
        self.why_stopped = self.why_stopped or why

    def _stopping(self) -> bool:
        self._told(self._n_kept, self.budget)
        if self._interrupts.requested:
            logger.warning("waiting for the answers under way, which are paid for; Ctrl-C again stops at once")
        return bool(self._interrupts.requested or self.why_stopped)
