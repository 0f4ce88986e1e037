"""Rows that a program holds, as a file that a recipe can name: in the cache folder, under a digest of what they say."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from os import PathLike
from typing import Any, TypeGuard

import numpy as np

from tunewise import files
from tunewise.cache import cache_folder
from tunewise.data.hub import class_names, named
from tunewise.data.splits import SPLITS
from tunewise.errors import UserError

Rows = Iterable[Mapping[str, Any]]
Data = str | PathLike[str] | Mapping[str, Any] | Rows
"""What a function takes as data: a path, rows, rows by split, or fields of a recipe, whose `path` may be any of
these."""
SPLIT_NAMES = {name for names in SPLITS.values() for name in names}


def data_fields(data: Data) -> dict[str, Any]:
    """The `data:` section of a recipe for this data, its rows on the disk; UserError for what is no row.

    Rows are mappings from columns to what JSON has, or to numbers and arrays of numpy: a list of them, a data set of
    `datasets`, or one of either for each of train, dev and test. The same rows are the same file, whichever process has
    them, and what becomes of them later changes nothing. Classes of a data set are told by their names, as those of
    the hub are.
    """
    if isinstance(data, Mapping):
        fields: dict[str, Any] = {str(name): value for name, value in data.items()}
        if SPLIT_NAMES & fields.keys() and all(map(_are_rows, fields.values())):
            return {"path": _kept(_known_splits(fields))}
        if "path" in fields and not isinstance(fields["path"], str):
            fields["path"] = data_fields(fields["path"])["path"]
        return fields
    return {"path": _kept({"": data}) if _are_rows(data) else str(data) if isinstance(data, PathLike) else data}


def _known_splits(splits: Mapping[str, Rows]) -> Mapping[str, Rows]:
    if others := [name for name in splits if name not in SPLIT_NAMES]:
        taken = ", ".join(f"{name!r}: data[{name!r}]" for name in splits if name in SPLIT_NAMES)
        raise UserError(f"what {' and '.join(others)} serves as is not known", f"give the others alone: {{{taken}}}")
    return splits


def _are_rows(value: object) -> TypeGuard[Rows]:
    return isinstance(value, Iterable) and not isinstance(value, str | Mapping)


def _kept(splits: Mapping[str, Rows]) -> str:
    """Where these rows lie: a file, or a folder with one for each split."""
    plain = {}
    for split, rows in splits.items():
        classes = class_names(rows)
        plain[split] = [_plain(row, number, classes) for number, row in enumerate(rows)]
    for split, rows in plain.items():
        if not rows:
            raise UserError(f"there are no rows{f' in {split}' if split else ''}", "give a list with a dict for each")
    place = cache_folder() / "rows" / f"rows-{_digest(plain)}"
    for split, rows in plain.items():
        path = place / f"{split}.jsonl" if split else place.with_suffix(".jsonl")
        if not path.is_file():
            files.write_jsonl(path, rows)
    return str(place.with_suffix(".jsonl") if "" in plain else place)


def _digest(splits: Mapping[str, list[dict[str, Any]]]) -> str:
    try:
        return hashlib.sha256(json.dumps(splits).encode()).hexdigest()[:12]
    except (TypeError, ValueError) as error:
        raise UserError(f"the rows hold what JSON has not: {error}", "make it text, a number, a list or None") from None


def _plain(row: object, number: int, classes: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    if not isinstance(row, Mapping):
        raise UserError(
            f"row {number} is a {type(row).__name__}, not a dict from columns to values: {str(row)[:60]!r}",
            "give rows as [{'text': ..., 'label': ...}, ...]; of a data frame, frame.to_dict('records')",
        )
    fields = {str(name): named(_as_json_has_it(value), classes.get(str(name), ())) for name, value in row.items()}
    if len(fields) < len(row):
        raise UserError(f"row {number} has two columns of one name: {list(row)}", "give each a name of its own")
    return fields


def _as_json_has_it(value: Any) -> Any:
    """Numbers of numpy as numbers, its arrays as lists, dates and decimal numbers as text, as of a file, and
    what a data frame has where there is nothing as None."""
    if isinstance(value, str | bool | int | None):
        return value
    if isinstance(value, np.generic | np.ndarray):
        return _as_json_has_it(value.tolist())
    if isinstance(value, Mapping):
        return {name: _as_json_has_it(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json_has_it(each) for each in value]
    if _is_nothing(value):
        return None
    return str(value) if isinstance(value, date | time | timedelta | Decimal) else value


def _is_nothing(value: object) -> bool:
    """Whether it is NaN, pandas' NaT or its NA, which has no truth value."""
    try:
        return bool(value != value)
    except TypeError:
        return True
    except (ValueError, RuntimeError):  # several values at once, which JSON has not
        return False
