"""What is imported before workers are split off: once for all of them, without looking for garbage meanwhile."""

import sys
from importlib import import_module
from types import TracebackType

from tunewise.garbage import collect_rarely


def _tell_what_is_wrong(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print what keeps a worker from its work, unless its locks are gone: then who wanted it was interrupted."""
    if not isinstance(error, FileNotFoundError):
        sys.__excepthook__(kind, error, trace)


collect_rarely()
sys.excepthook = _tell_what_is_wrong
import_module("tunewise.comparison.workers")
