"""Waiting before a request is sent again: exponential back-off with jitter, and what the endpoint itself asks for."""

import math
import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

LONGEST = 60.0
"""Seconds that a wait grows to, unless the endpoint asks for more."""


def retry_after(header: str | None) -> float:
    """Seconds that a Retry-After header asks for, as a number or a date; 0 where it asks for nothing.  RFC 9110."""
    if not header:
        return 0.0
    try:
        seconds = float(header)
        return max(0.0, seconds) if math.isfinite(seconds) else 0.0
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return 0.0
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


class Backoff:
    """Waits of threads that share an endpoint: what one of them is told to wait, the others wait too."""

    def __init__(self, base_seconds: float, clock: Callable[[], float] = time.monotonic, seed: int = 0) -> None:
        self._base, self._clock = base_seconds, clock
        self._random = random.Random(seed)
        self._stop, self._closed_until = threading.Event(), 0.0

    def seconds(self, attempt: int, asked: float = 0.0) -> float:
        """How long to wait after so many failed attempts: base * 2^(attempt - 1), a random half of it taken off at
        most, and never less than the endpoint asked for."""
        longest = min(LONGEST, self._base * 2 ** (attempt - 1))
        return max(asked, longest * self._random.uniform(0.5, 1.0))

    def close_for(self, seconds: float) -> None:
        """Nobody sends anything for so long."""
        self._closed_until = max(self._closed_until, self._clock() + seconds)

    def wait(self, seconds: float = 0.0) -> bool:
        """Wait, and until the endpoint is open again; False, at once, when all are to stop."""
        until = self._clock() + seconds
        while (left := max(until, self._closed_until) - self._clock()) > 0:
            if self._stop.wait(left):
                return False
        return not self._stop.is_set()

    def stop(self) -> None:
        """Wake all who wait, for good."""
        self._stop.set()
