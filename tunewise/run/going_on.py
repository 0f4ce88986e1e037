"""What a recipe that goes on from an adapter leaves unsaid: its base, and the method with its rank, alpha and sites."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunewise.adapter_folders import CARD, base_named, card_of, find_adapter
from tunewise.errors import UserError
from tunewise.methods import parse_method
from tunewise.methods.base import Method
from tunewise.methods.store import read_card, read_of_others
from tunewise.models.heads import HeadKind, TaskHead
from tunewise.planning.shell import shell_of

HEADS: dict[object, HeadKind] = {"SEQ_CLS": "classes", "TOKEN_CLS": "tags"}
"""Of peft's types of task."""


def going_on(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a recipe, completed from the adapter that it names; as they are where it names none.

    What is said stays: other fields of the method than the adapter's are refused when it is put on its base.
    UserError where there is no such adapter, and where it does not say its base and nothing else does.
    """
    found = dict(fields)
    adapter, method = found.get("adapter"), found.get("method")
    is_said = isinstance(method, str) or "name" in (method or {})
    if not adapter or ("model" in found and is_said):
        return found
    folder = find_adapter(str(adapter))
    card = card_of(folder)
    if "model" not in found:
        found["model"] = base_named(card)
        if not found["model"]:
            raise UserError(f"{adapter} does not say which base it belongs to", "add --model NAME_OR_FOLDER")
        noted = {"quantise": card.get("base", {}).get("quantise"), "head": card.get("notes", {}).get("head")}
        found = {name: value for name, value in noted.items() if value} | found
    if not is_said:
        found["method"] = _method_of(folder, card, found["model"]).configuration() | dict(method or {})
    return found


def _method_of(folder: Path, card: Mapping[str, Any], model: str) -> Method:
    """Of an adapter of others its sites are told by the names of its tensors, which are those of its base."""
    if (folder / CARD).is_file():
        return parse_method(read_card(folder)["method"])
    kind = HEADS.get(card.get("task_type"))
    shell = shell_of(model, None if kind is None else TaskHead(kind, ("0", "1")))
    return read_of_others(shell.model, folder)[0]
