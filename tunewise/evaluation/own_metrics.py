"""Metrics of one's own: `FILE.py:FUNCTION`, where less is better `FILE.py:FUNCTION:lower`.

The function is given the answers and the references, two lists of texts in the order of the rows, and tells one number,
from 0 to 100 as other metrics do, or one of each row, whose mean is the metric. The file is run, as pytest and
lm-evaluation-harness run theirs, so it has to be named by the user's own recipe, command or program: what the recipe
of a run folder names is not run when that folder is evaluated (`without`).
"""

import hashlib
import importlib.util
import inspect
import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from traceback import extract_tb
from typing import Any

import numpy as np

from tunewise.directions import LOWER
from tunewise.errors import UserError, missing, unknown

logger = logging.getLogger(__name__)

Texts = Sequence[str]
Function = Callable[[list[str], list[str]], Any]
_NAMED = re.compile(rf"(?P<file>.+\.py):(?P<function>[^\W\d]\w*)(?P<lower>{LOWER})?")
_FUNCTIONS: dict[str, Function] = {}
"""By file, name, and what the file says: a changed one is read again."""
_BEING_RUN: list[Path] = []
"""Files that are run for a metric at this moment."""


@dataclass(frozen=True)
class OwnMetric:
    """What names it, and what it is called in results."""

    file: Path
    function: str
    told: str

    def check(self) -> None:
        """UserError where there is no such file, or no such function in it."""
        _function(*self._where)

    @property
    def _where(self) -> tuple[Path, str, str]:
        if not self.file.is_file():
            raise missing(self.file)
        return self.file.resolve(), self.function, _digest(self.file)

    def by_row(self, predictions: Texts, references: Texts) -> list[float] | None:
        """What it tells of each row; None where it tells one number of all."""
        found = self._asked(predictions, references)
        return found if isinstance(found, list) else None

    def of(self, predictions: Texts, references: Texts) -> float:
        found = self._asked(predictions, references)
        largest = max(found, default=0.0) if isinstance(found, list) else found
        if 0 < largest <= 1 and not self.told.endswith(LOWER):
            _tell_of_shares(self.told)
        return math.fsum(found) / len(found) if isinstance(found, list) else found

    def _asked(self, predictions: Texts, references: Texts) -> float | list[float]:
        return _told(*self._where, tuple(predictions), tuple(references))


def own_metric(name: str) -> OwnMetric | None:
    """The metric of one's own that goes by this name; None for a name of another form."""
    found = _NAMED.fullmatch(name)
    if found is None:
        return None
    return OwnMetric(Path(found["file"]), found["function"], found["function"] + (found["lower"] or ""))


def called(name: str) -> str:
    """What the metric of this name is called in results: one of one's own by its function, less its file."""
    own = own_metric(name)
    return name if own is None else own.told


def asked_as(told: str, names: Iterable[str]) -> str:
    """Of the names that were asked for, the one that is called so in results."""
    return next((name for name in names if called(name) == told), told)


def check_own(names: Iterable[str]) -> None:
    """UserError where a file or function is not there, or two would be called alike."""
    told: dict[str, str] = {}
    for name in names:
        if (own := own_metric(name)) is not None:
            own.check()
        if (other := told.setdefault(called(name), name)) != name:
            raise UserError(f"{other} and {name} would both be called {called(name)}", "call one otherwise")


def refuse_in_a_file_of_metrics() -> None:
    """UserError where a program that holds a metric is run for it: it would begin its work anew in every process."""
    if _BEING_RUN:
        raise UserError(
            f"{_BEING_RUN[-1]} begins a run while it is read for its metric",
            "put what it does below  if __name__ == '__main__':  or the metric into a file of its own",
        )


def files_of(names: Iterable[str]) -> list[Path]:
    """The files of those that are one's own."""
    return [own.file for name in names if (own := own_metric(name)) is not None]


def spelled(function: object) -> str:
    """What names a function of this process: its file, where other processes find it too."""
    if not inspect.isfunction(function):
        raise UserError(f"a recipe cannot hold {function!r}", "give text, numbers or lists, or as a metric a function")
    path = inspect.getsourcefile(function)
    if path is None or not Path(path).is_file() or not function.__qualname__.isidentifier():
        told = f"{function.__qualname__} is not at the top of a file, where a recipe could name it"
        raise UserError(told, "write it into one, metrics.py, and give metrics.FUNCTION or 'metrics.py:FUNCTION'")
    name = f"{Path(path).resolve()}:{function.__qualname__}"
    _FUNCTIONS[f"{name} {_digest(Path(path))}"] = function
    return name


def without(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The `data:` section of a run folder's recipe without metrics of one's own, which its owner named and not who
    evaluates it."""
    left = dict(fields)
    if own := [name for name in left.get("metrics") or () if own_metric(name)]:
        logger.warning("%s: code is not run because a run folder names it; give it as data.metrics", ", ".join(own))
        left["metrics"] = [name for name in left["metrics"] if name not in own] or None
    if left.get("mixture"):
        sources = {name: without(each) for name, each in left["mixture"]["sources"].items()}
        left["mixture"] = {**left["mixture"], "sources": sources}
    return left


@cache
def _tell_of_shares(told: str) -> None:
    logger.warning("%s told nothing above 1: margins are points of 100, so return 100 where 1 would be perfect", told)


@lru_cache(maxsize=8)
def _told(file: Path, name: str, digest: str, predictions: Texts, references: Texts) -> float | list[float]:
    """What a function says of these rows, which it may have asked a judge about: it is asked once."""
    where, function = f"{file}:{name}", _function(file, name, digest)
    try:
        found = function(list(predictions), list(references))
    except Exception as error:  # whatever the user's function raises
        lines = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == str(file)]
        at = f" in line {lines[-1]}" if lines else ""
        raise UserError(f"{where} failed{at}: {type(error).__name__}: {error}", "correct the function") from error
    try:
        numbers = np.asarray(found, dtype=np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{where} told {found!r}, which is no number", "return a number, or one of each row") from None
    if numbers.shape not in ((), (len(references),)):
        told = f"{where} told numbers of shape {numbers.shape} of {len(references)} rows"
        raise UserError(told, "return one number of all rows, or one of each")
    if not np.isfinite(numbers).all():
        raise UserError(f"{where} told a number that is not finite", "correct the function")
    return numbers.tolist()


def _function(file: Path, name: str, digest: str) -> Function:
    key = f"{file}:{name} {digest}"
    if key not in _FUNCTIONS:
        _FUNCTIONS[key] = _read(file, name)
    return _FUNCTIONS[key]


def _read(file: Path, name: str) -> Function:
    """Run the file, and take the function."""
    logger.info("%s is run for its metric %s", file, name)
    spec = importlib.util.spec_from_file_location(f"own_metrics_in_{file.stem}", file)
    assert spec is not None, file
    assert spec.loader is not None, file
    module = importlib.util.module_from_spec(spec)
    _BEING_RUN.append(file)
    try:
        spec.loader.exec_module(module)
    except UserError:
        raise
    except Exception as error:  # whatever the user's file raises
        raise UserError(f"{file} cannot be run: {type(error).__name__}: {error}", "correct it") from error
    finally:
        _BEING_RUN.pop()
    functions = {key: value for key, value in vars(module).items() if inspect.isfunction(value)}
    if name not in functions:
        raise unknown(f"function of {file}", name, functions)
    return functions[name]


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
