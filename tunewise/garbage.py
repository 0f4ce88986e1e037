"""When Python looks for garbage: not while a process imports torch and transformers, and not at its end.

Imports make a million objects which all stay. Looking through them again and again, and once more on leaving, is a
third of the time of a short command.
"""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager

USUAL = gc.get_threshold()
RARE = 200_000  # new objects; imports make a few times as many


def collect_rarely() -> None:
    """For a process that is ours from its first line to its last: until `collect_as_usual`, and on leaving."""
    gc.set_threshold(RARE, *USUAL[1:])
    atexit.register(gc.freeze)


def collect_as_usual() -> None:
    """Before the work that makes garbage with tensors in it. What is there by now stays, and is not looked at again."""
    if gc.get_threshold()[0] == RARE:
        gc.freeze()
        gc.set_threshold(*USUAL)


@contextmanager
def not_collecting() -> Iterator[None]:
    """No search inside the block: for what makes many objects that stay, or watches when its own are gone."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def has_only_imported() -> bool:
    """Whether this process is ours, and at its imports."""
    return gc.get_threshold()[0] == RARE
