"""What a training begins with: a method that is put on the base, or an adapter, ours or peft's, that is trained on."""

import shlex
from collections.abc import Callable, Iterable

from torch import Tensor

from tunewise.adapter_folders import find_adapter
from tunewise.config import dump_yaml
from tunewise.errors import UserError
from tunewise.methods.attach import Tuned, attach
from tunewise.methods.base import Method
from tunewise.methods.reparam.adalora import AdaLoRA
from tunewise.methods.selective.frozen import Frozen
from tunewise.methods.store import load_adapter
from tunewise.models.load import Base
from tunewise.run.classes_told import head_in, refuse_other_classes
from tunewise.run.recipe import Recipe
from tunewise.training.proofs import is_out_of_memory


def begun(recipe: Recipe, base: Base, losses: Callable[[], Iterable[Tensor]]) -> Tuned:
    """The base with the recipe's method on it, or with the adapter that the recipe goes on from.

    `losses` are those of `attach`. UserError where the adapter is of another method than the recipe's, and where it
    cannot be trained further, where the method trains nothing, and where it does not fit into memory.
    """
    if not recipe.adapter:
        return _attached(recipe, base, losses)
    folder = find_adapter(recipe.adapter)
    if (head := head_in(folder)) is not None:
        refuse_other_classes(head, base.head, recipe.data.path, recipe.adapter)
    tuned = load_adapter(base.model, folder, tokenizer=base.tokenizer, base_fingerprint=base.fingerprint)
    try:
        _check(tuned, recipe.method, recipe.adapter)
    except UserError:
        tuned.detach()
        raise
    return tuned


def _attached(recipe: Recipe, base: Base, losses: Callable[[], Iterable[Tensor]]) -> Tuned:
    method = recipe.method
    try:
        tuned = attach(base.model, method, tokenizer=base.tokenizer, losses=losses, seed=recipe.seed)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        told = f"{method.name} does not fit into memory beside {base.name}"
        raise UserError(told, f"make it smaller: {' '.join(_words(method))}") from error
    if not (tuned.n_trainable or isinstance(method, Frozen)):
        tuned.detach()
        raise UserError(
            f"{method.name} trains nothing of {base.name}: {' '.join(_words(method))}",
            "leave out the fields that choose its places, or take method=frozen",
        )
    return tuned


def _check(tuned: Tuned, wanted: Method, adapter: str) -> None:
    if _fields(tuned.method) != _fields(wanted):
        raise UserError(
            f"{adapter} is {_unlike(tuned.method, wanted)}, the recipe asks for {_unlike(wanted, tuned.method)}",
            f"write {' '.join(_words(tuned.method))}",
        )
    if isinstance(tuned.method, AdaLoRA):
        raise UserError(
            f"{adapter} is an AdaLoRA, whose ranks were chosen, and what chose them was not saved",
            "make a LoRA of it first: tunewise adapter combine FOLDER --out NEW",
        )
    if tuned.scale != 1:
        raise UserError(
            f"{adapter} was saved at λ = {tuned.scale:g}, and is trained at 1", "go on from the adapter of its run"
        )


def _fields(method: Method) -> dict[str, object]:
    """Its fields, with lists in one order: roles and layers are sets."""
    fields = method.configuration().items()
    return {name: sorted(value, key=str) if isinstance(value, list) else value for name, value in fields}


def _unlike(method: Method, other: Method) -> str:
    """The method's name, and those of its fields that are not the other's."""
    if type(method) is not type(other):
        return method.name
    own, its = _fields(method), _fields(other)
    return f"{method.name} with {', '.join(f'{name}={_inline(own[name])}' for name in own if own[name] != its[name])}"


def _words(method: Method) -> list[str]:
    """What to type for this method: its name, and its fields that are not as they are by themselves."""
    plain = type(method)().configuration()
    said = {name: value for name, value in method.configuration().items() if name != "name" and value != plain[name]}
    values = {name: _inline(value) for name, value in said.items()}
    return [f"method={method.name}", *(shlex.quote(f"method.{name}={value}") for name, value in values.items())]


def _inline(value: object) -> str:
    """A value as it stands in an override, on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_inline(name)}: {_inline(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return dump_yaml(value).splitlines()[0]
