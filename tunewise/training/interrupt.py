"""Ctrl-C and SIGTERM as a request to stop at the next safe place."""

import signal
import threading
from types import FrameType, TracebackType

from tunewise.errors import UserError


class Interrupted(UserError):
    """Training was stopped by a signal; the checkpoint it left behind is named in the message."""


class Interrupts:
    """Inside the `with` block the first SIGINT or SIGTERM only sets `requested`; a second one acts as it always does.

    Outside the main thread, where Python allows no handlers, nothing is caught.
    """

    requested: str = ""
    """The name of the signal that came, or ""."""

    def __enter__(self) -> "Interrupts":
        self._previous = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
