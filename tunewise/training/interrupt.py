"""Ctrl-C and SIGTERM as a request to stop at the next safe place."""

import signal
import threading
from types import FrameType, TracebackType

from tunewise.errors import UserError


class Interrupted(UserError):
    """Training was stopped by a signal; the checkpoint it left behind is named in the message."""


_told = threading.Event()  # to stop, by `request`
_watching: set["Interrupts"] = set()


def request() -> bool:
    """Ask training to stop, from another thread, as a first SIGTERM does, however often; from now on to the end of the
    process. Whether any is under way."""
    _told.set()
    return bool(_watching)


class Interrupts:
    """Inside the `with` block the first SIGINT or SIGTERM only sets `requested`; a second one acts as it always does.

    A signal that this process ignores stays ignored. Outside the main thread, where Python allows no handlers, nothing
    is caught.
    """

    _came: str = ""

    @property
    def requested(self) -> str:
        """Why to stop: the name of the signal that came, or what `request` was told; or ""."""
        return self._came or ("SIGTERM" if _told.is_set() else "")

    def __enter__(self) -> "Interrupts":
        self._previous = {}
        _watching.add(self)
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()
        _watching.discard(self)

    def request(self, why: str) -> None:
        """Stop as if a signal of this name had come."""
        self._came = why

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._came = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
