"""What a teacher is: a stronger model that is asked by requests and answers by replies, here or behind an endpoint."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from tunewise.errors import UserError
from tunewise.teacher.budget import Budget
from tunewise.teacher.exchange import Reply, Request

Stopping = Callable[[], bool]
"""Whether no further request is to begin."""


class Teacher(Protocol):
    """Answers requests, as many at once as it can."""

    @property
    def name(self) -> str:
        """What is written beside each row."""
        ...

    @property
    def chats(self) -> bool:
        """Whether it answers a message, and does not write on."""
        ...

    def replies(
        self, requests: Sequence[Request], budget: Budget, stopping: Stopping
    ) -> Iterator[tuple[Request, Reply]]:
        """Each request with its reply, in the order in which they come.

        Fewer where the budget or `stopping` ends it. Raises Unanswered for a teacher that cannot be reached any more,
        once what is under way has come.
        """
        ...


class Unanswered(UserError):
    """The teacher does not answer, or will not; what it answered before is kept."""
