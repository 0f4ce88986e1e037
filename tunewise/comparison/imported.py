"""What is imported before workers are split off: once for all of them, without looking for garbage meanwhile."""

from importlib import import_module

from tunewise.garbage import collect_rarely

collect_rarely()
import_module("tunewise.comparison.workers")
