"""The row of a model in the table of families, or one inferred from its module names.

A path that known rows have at some role is that role; of a decoder the last name alone tells it too, so that tomorrow's
llama needs no row. What names cannot tell (how a fused projection is laid out) is refused with the row to write.
"""

import logging
from collections.abc import Iterable

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tunewise.errors import UserError
from tunewise.models.families import DECODER, ENCODER_DECODER, FAMILIES, Family, kind_of

logger = logging.getLogger(__name__)

NEEDED = {"q", "k", "v", "o", "up", "down"}


def family_of(model: PreTrainedModel) -> Family:
    """The row of `model`, or one inferred from its module names; UserError where neither is to be had."""
    model_type = model.config.model_type
    kind = kind_of(model.config)
    known = FAMILIES.get(model_type)
    if known is None:
        family = _infer(model, kind)
        logger.warning("model_type %r is new here; inferred from its module names: %s", model_type, family)
        return family
    rows = known if isinstance(known, tuple) else (known,)
    paths = {path for path, _ in model.named_modules()}
    for row in rows:
        needed = () if row.elsewhere is not None else (*row.sites.values(), *(row.fused or {}).values())
        if f"{row.layers}.0" in paths and all(f"{row.layers}.0.{path}" in paths for path in needed):
            return row
    raise UserError(
        f"this {model_type} model ({type(model).__name__}) has no layers at {rows[0].layers}",
        hint="load it with a head: AutoModelForCausalLM, AutoModelForSequenceClassification and the like",
    )


def _infer(model: PreTrainedModel, kind: str) -> Family:
    """The row for a model whose family is unknown, from the names its layers share with the known ones of its kind."""
    lists = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len({type(layer) for layer in module}) == 1
    }
    if not lists:
        has_layers = any(isinstance(module, nn.ModuleList) and len(module) > 1 for module in model.modules())
        found = "layers of different kinds" if has_layers else "no stack of layers"
        raise UserError(
            f"{found} found in a {model.config.model_type!r} model, which is in no row of the anatomy",
            hint="take a base of a family that is known (docs/models.md lists them), such as llama, gpt2 or opt",
        )
    layers = max(lists, key=lambda path: sum(p.numel() for p in lists[path].parameters()))
    linears = [path for path, module in lists[layers][0].named_modules() if isinstance(module, nn.Linear | Conv1D)]
    roles = {path: role for path in linears if (role := _role_of(path, kind))}
    embedding = next((path for path, module in model.named_modules() if module is model.get_input_embeddings()), None)
    differ = [i for i, layer in enumerate(lists[layers]) if not set(linears) <= {p for p, _ in layer.named_modules()}]
    is_told = set(roles.values()) >= NEEDED and len(set(roles.values())) == len(linears)
    if not is_told or differ or kind == ENCODER_DECODER:
        raise UserError(
            f"model_type {model.config.model_type!r} is in no row of the anatomy, and "
            + (f"its layers 0 and {differ[0]} hold different modules" if differ else "its names do not tell the roles"),
            hint=f"add to FAMILIES in tunewise/models/families.py: "
            f'"{model.config.model_type}": Family(layers="{layers}", embedding="{embedding}", '
            f"sites={{{_as_row(linears, roles)}}})",
        )
    return Family(layers=layers, embedding=embedding, sites={role: path for path, role in roles.items()}, kind=kind)


def _as_row(linears: Iterable[str], roles: dict[str, str]) -> str:
    return ", ".join(f'"{roles.get(path, "?")}": "{path}"' for path in linears)


def _role_of(path: str, kind: str) -> str | None:
    """The role that known families of this kind have at this path, or, decoders, at its last name: where all agree."""
    found = {role for role, known in _known_sites(kind) if known == path}
    if not found and kind == DECODER:
        leaf = path.rpartition(".")[2]
        found = {role for role, known in _known_sites(kind) if known.rpartition(".")[2] == leaf}
    return found.pop() if len(found) == 1 else None


def _known_sites(kind: str) -> list[tuple[str, str]]:
    """Role and path, relative to a layer, in every row of this kind."""
    rows = [row for known in FAMILIES.values() for row in (known if isinstance(known, tuple) else (known,))]
    return [site for row in rows if row.kind == kind for site in row.sites.items()]
