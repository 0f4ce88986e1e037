"""What was tried of a model with what acts on it: tried once for all methods of the same fields."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from transformers import PreTrainedModel

from tunewise.engine.native.build import library
from tunewise.methods.acting import acts_on

KEPT = 64
"""Of a model; what is put on and taken off for each question has hooks of its own."""
Found = TypeVar("Found")
_FOUND: WeakKeyDictionary[PreTrainedModel, dict[Hashable, Any]] = WeakKeyDictionary()


def tried(model: PreTrainedModel, what: Hashable, trial: Callable[[], Found]) -> Found:
    """What `trial` finds, or has found: `what` names it and all that it is given beside the model."""
    known, key = _FOUND.setdefault(model, {}), _key(model, what)
    found = known[key] if key in known else trial()
    _note(known, key, found)
    return found


def note(model: PreTrainedModel, what: Hashable, found: object) -> None:
    """Note what a trial has found: what acts was taken off since, and put on again."""
    _note(_FOUND.setdefault(model, {}), _key(model, what), found)


def _note(known: dict[Hashable, Any], key: Hashable, found: object) -> None:
    """As the last of those that are kept."""
    known.pop(key, None)
    known[key] = found
    if len(known) > KEPT:
        del known[next(iter(known))]


def _key(model: PreTrainedModel, what: Hashable) -> Hashable:
    return what, model.dtype, model.device, library() is None, acts_on(model)
