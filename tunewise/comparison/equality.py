"""Arms that are alike in all but how they adapt the base; a difference that would decide for them is refused."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tunewise.errors import UserError, unknown
from tunewise.methods.selective.frozen import Frozen
from tunewise.run import Recipe

ITS_OWN = (
    "method", "quantise", "seed", "data.pattern", "data.words",
    "train.learning_rate", "train.schedule", "train.warmup", "train.warmup_steps", "train.decay", "train.floor",
    "train.weight_decay", "train.clip", "train.label_smoothing", "train.class_weights",
)  # fmt: skip
"""How an arm stores the base, adapts it and asks it: what a comparison compares."""
CHANGES_NOTHING = (
    "train.checkpoint_every", "train.checkpointing", "train.packing", "train.lanes", "train.trunk", "train.report_to",
    "dial",
)  # fmt: skip
"""How a run is carried out, and what is measured of it afterwards: its figures are the same but for rounding."""


def check_alike(recipes: Mapping[str, Recipe], allowed: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Field -> label -> value, of the allowed fields (`train`, `train.steps`) in which arms differ.

    Of an arm that trains nothing the train section counts for nothing. UserError naming the first other field in which
    two arms differ, with both values, for arms on several models, which are never compared, and for an allowed
    field that no recipe has.
    """
    models = sorted({recipe.model for recipe in recipes.values()})
    if len(models) > 1:
        raise UserError(
            f"the arms stand on {len(models)} bases: {'; '.join(models)}", "compare what stands on one base"
        )
    _refuse_unknown(allowed, list(recipes.values()))
    flat = {label: dict(_flat(recipe)) for label, recipe in recipes.items()}
    unlike: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(name for fields in flat.values() for name in fields):
        # a test set from elsewhere is a field that only some recipes have; of train some arms have nothing
        values = {label: of.get(name) for label, of in flat.items() if name in of or not name.startswith("train.")}
        first, *others = values
        other = next((label for label in others if values[label] != values[first]), None)
        if other is None:
            continue
        if not _is_in(name, allowed):
            raise UserError(
                f"unlike arms: {name} is {values[first]!r} for {first} and {values[other]!r} for {other}, "
                "and would decide beside the method",
                f"give all arms the same, or say that it is meant: --allow-unlike {name}",
            )
        unlike[name] = values
    return unlike


def _refuse_unknown(allowed: Sequence[str], recipes: Sequence[Recipe]) -> None:
    found = [each for recipe in recipes for each in recipe.model_dump(mode="json").items()]
    inner = dict.fromkeys(f"{name}.{key}" for name, value in found if isinstance(value, dict) for key in value)
    for name in allowed:
        if name not in Recipe.model_fields and not _is_in(name, list(inner)):
            raise unknown("field of a recipe", name, [*Recipe.model_fields, *inner])


def _flat(recipe: Recipe) -> Iterator[tuple[str, Any]]:
    """Dotted field and value of everything that has to be the same for all arms."""
    for name, value in recipe.model_dump(mode="json").items():
        fields = {f"{name}.{key}": each for key, each in value.items()} if isinstance(value, dict) else {name: value}
        trains_nothing = name == "train" and isinstance(recipe.method, Frozen)
        for path, each in fields.items():
            if not trains_nothing and not _is_in(path, (*ITS_OWN, *CHANGES_NOTHING)):
                yield path, each


def _is_in(path: str, fields: Sequence[str]) -> bool:
    return any(path == field or path.startswith(f"{field}.") for field in fields)
