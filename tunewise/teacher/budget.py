"""How much a teacher may be asked: requests and tokens, counted over all processes that worked on the same folder."""

import threading
from collections.abc import Iterable

from tunewise.teacher.exchange import Reply, Request


class Budget:
    """Requests sent, retries included, and tokens used, each with a cap that is never exceeded.

    Before it begins, a request reserves the most that it can use: a token for each byte of its text, and all it may
    write. The threads of an endpoint share one budget.
    """

    def __init__(self, max_requests: int | None = None, max_tokens: int | None = None) -> None:
        self.max_requests, self.max_tokens = max_requests, max_tokens
        self.sent, self.n_answered, self.prompt_tokens, self.completion_tokens = 0, 0, 0, 0
        self._reserved: dict[str, int] = {}
        self._lock = threading.Lock()

    @property
    def used(self) -> int:
        """Tokens read and written."""
        return self.prompt_tokens + self.completion_tokens

    def spent_before(self, sent: int, replies: Iterable[Reply]) -> None:
        """What earlier processes spent, as the journal has it."""
        self.sent += sent
        for reply in replies:
            self._use(reply)

    def admits(self, request: Request) -> bool:
        """Reserve what the request may use; False where that is more than is left beside those under way."""
        with self._lock:
            most = request.most_tokens
            if self.max_requests is not None and self.sent + len(self._reserved) >= self.max_requests:
                return False
            taken = self.used + sum(self._reserved.values())
            if self.max_tokens is not None and taken + most > self.max_tokens:
                return False
            self._reserved[request.key] = most
            return True

    def sends(self) -> bool:
        """Count one sending of a request; False where it would be one too many."""
        with self._lock:
            if self.max_requests is not None and self.sent >= self.max_requests:
                return False
            self.sent += 1
            return True

    def settle(self, request: Request, reply: Reply | None) -> None:
        """The request is over: what it reserved is free, and what it used is used."""
        with self._lock:
            self._reserved.pop(request.key, None)
            if reply is not None:
                self._use(reply)

    def why_not(self, request: Request) -> str:
        """Why nothing more is asked, in words; "" where `request` could be."""
        with self._lock:
            if self.max_requests is not None and self.sent >= self.max_requests:
                return f"{self.sent:,} requests were sent, and no more than {self.max_requests:,} were to be"
            if self.max_tokens is not None and self.used + request.most_tokens > self.max_tokens:
                return f"{self.used:,} tokens were used, and the next request could pass {self.max_tokens:,}"
            return ""

    def _use(self, reply: Reply) -> None:
        self.n_answered += 1
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens
