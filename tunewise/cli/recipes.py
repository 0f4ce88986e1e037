"""The command line's words -> one recipe: a file, flags, and dotted overrides, the later winning over the earlier."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunewise.config import in_one_word, override, parts_of, read_yaml
from tunewise.data.found import find
from tunewise.elsewhere import ELSEWHERE, hint_for
from tunewise.errors import UserError

DEFAULTS: dict[str, Any] = {"model": "tiny", "method": {"name": "lora"}, "seed": 0}
OF_THE_BASE = ("dtype", "head", "quantise")  # fields of the recipe that an arm may be given beside those of its method
ROWS = (".csv", ".tsv", ".jsonl", ".parquet", ".txt")
"""Ends of names of files that hold rows, and no recipe."""
SHORT = ("method", "data")  # fields that may be given by one word


def split_words(words: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The positional words of a verb: at most one recipe file first, then overrides such as method.rank=4."""
    recipe: Path | None = None
    overrides: list[str] = []
    for word in words:
        if is_assignment(word):
            overrides.append(word)
        elif recipe is None and not overrides:
            recipe = Path(word)
        else:
            raise UserError(
                f"cannot read {word!r}",
                "after the recipe come overrides such as train.learning_rate=2e-4 method.rank=4",
            )
    return recipe, overrides


def is_assignment(word: str) -> bool:
    """Whether a word gives a field its value, and is no path that has a = in it, such as runs/lr=1e-3."""
    return "=" in word and not os.path.exists(word)  # noqa: PTH110 - which has nothing against long words


def assigned(assignments: Sequence[str]) -> dict[str, Any]:
    """Dotted field -> value, of words such as train.learning_rate=2e-4."""
    return {word.partition("=")[0]: override({}, ["value=" + word.partition("=")[2]])["value"] for word in assignments}


def arm_of(word: str) -> tuple[str, dict[str, Any]]:
    """Label and recipe fields of an arm in one word: a method, its fields, and fields of the recipe after them, as in
    frozen:shots=8:data.pattern=question, or lora:quantise=nf4."""
    method, own = _parted(word)
    return " ".join(parts_of(word.strip(), ":")), {"method": in_one_word(method), **assigned(own)}


def _parted(word: str) -> tuple[str, list[str]]:
    """An arm's word without what it assigns to fields of the recipe, and those assignments."""
    name, *assignments = parts_of(word.strip(), ":")
    names = [assignment.partition("=")[0] for assignment in assignments]
    own = [each for each, field in zip(assignments, names) if "." in field or field in OF_THE_BASE]
    return ":".join([name, *(each for each in assignments if each not in own)]), own


def _of_file(file: Path) -> dict[str, Any]:
    """The recipe in a file; UserError naming --data for one of rows."""
    rows = UserError(f"{file} is no recipe, which is yaml", f"its rows are given by --data {file}")
    if file.suffix.lower() in ROWS and file.is_file():
        raise rows
    try:
        return read_yaml(file)
    except UserError:
        if file.suffix.lower() == ".json" and file.is_file():  # a mapping would be a recipe
            raise rows from None
        raise


def gather(words: Sequence[str], flags: dict[str, Any], *, goes_on: bool = False) -> dict[str, Any]:
    """The recipe as plain data. `flags` are the options of the verb: model, data, method, seed; None where not given.

    Short forms (`data: tiny:sentiment`, `method: lora`) are opened into fields first, so that overrides reach inside.
    Where `goes_on`, model and method of a recipe that goes on from an adapter are left to it, if nothing says them.
    """
    file, overrides = split_words(words)
    recipe: dict[str, Any] = _of_file(file) if file else {}
    if not (goes_on and ("adapter" in recipe or any(word.startswith("adapter=") for word in overrides))):
        recipe = {**DEFAULTS, **recipe}
    given = {name: value for name, value in flags.items() if value is not None}
    # method=bitfit and data=reviews.csv mean the same as the flags
    for assignment in [o for o in overrides if o.partition("=")[0] in SHORT]:
        name, _, value = assignment.partition("=")
        given[name] = value
        overrides.remove(assignment)
    if isinstance(path := recipe.get("data"), str):
        recipe["data"] = {"path": path}
    if isinstance(method := recipe.get("method"), str):
        recipe["method"] = in_one_word(method)
    if "data" in given:
        recipe["data"] = {**recipe.get("data", {}), "path": given.pop("data")}
    if "method" in given:
        word, of_the_recipe = _parted(given.pop("method"))
        fields, overrides = in_one_word(word), [*of_the_recipe, *overrides]
        # another method has other fields, so the recipe's own do not carry over
        known = recipe.get("method", {})
        known = known if known.get("name") == fields["name"] else {}
        recipe["method"] = {**known, **fields}
    recipe = override({**recipe, **given}, overrides)
    if "data" not in recipe:
        if hint := hint_for(recipe):
            theirs = ", ".join(name for name in recipe if name in ELSEWHERE)
            raise UserError(f"no data given, and fields that are called otherwise here: {theirs}", hint)
        raise UserError(
            "no data given",
            "add --data FILE (csv, tsv, json, jsonl, parquet, txt), or --data tiny:sentiment to try it out",
        )
    data = recipe["data"]
    if isinstance(data, dict) and "mixture" not in data and isinstance(path := data.get("path"), str):
        find(path)  # a typing error is told before torch is imported
    return recipe
