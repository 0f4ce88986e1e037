"""The recipes of a comparison's arms: what is common to all, and under it what each says of its own."""

from collections.abc import Mapping, Sequence
from typing import Any

from tunewise.errors import UserError
from tunewise.run import Recipe, build_recipe

HOW_ROWS_ARE_ASKED = frozenset({"pattern", "words", "train"})
"""Fields of `data` in which arms may differ: the test items are the same, whatever they are."""


def recipe_of(
    common: Mapping[str, Any], arm: Mapping[str, Any], seed: int, overrides: Mapping[str, Any] | None = None
) -> Recipe:
    """The recipe of one run; `overrides` are dotted fields for all arms.

    An arm's fields are sections ({"method": "lora", "train": {...}}) or dotted ({"data.pattern": "question"}), and the
    dotted ones are the last word. A section of data that names no path is laid over the common one.
    """
    dotted = {name: value for name, value in arm.items() if "." in name}
    sections = {name: value for name, value in arm.items() if name not in dotted}
    own, shared = sections.get("data"), common["data"]
    if isinstance(own, Mapping) and "path" not in own:
        sections["data"] = {**({"path": shared} if isinstance(shared, str) else shared), **own}
    return build_recipe({**common, **sections, "seed": seed}, {**(overrides or {}), **dotted})


def refuse_other_items(recipes: Mapping[str, Sequence[Recipe]]) -> None:
    """UserError where two arms would not be tested on the same rows."""
    first_label, *others = recipes
    first = recipes[first_label][0].data.model_dump(exclude=set(HOW_ROWS_ARE_ASKED))
    for label in others:
        here = recipes[label][0].data.model_dump(exclude=set(HOW_ROWS_ARE_ASKED))
        name = next((name for name, value in here.items() if value != first[name]), None)
        if name is not None:
            raise UserError(
                f"{label} has other rows than {first_label}: data.{name} is {here[name]!r}, not {first[name]!r}",
                f"arms may differ in {', '.join(f'data.{each}' for each in sorted(HOW_ROWS_ARE_ASKED))} alone",
            )
