"""Rows that a program holds, as a file that a recipe can name: in the cache folder, under a digest of what they say."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from os import PathLike
from typing import Any, TypeGuard

from tunewise import files
from tunewise.cache import cache_folder
from tunewise.data.sources import SPLITS
from tunewise.errors import UserError

Rows = Iterable[Mapping[str, Any]]
Data = str | PathLike[str] | Mapping[str, Any] | Rows
"""What a function takes as data: a path, rows, rows by split, or fields of a recipe, whose `path` may be any of
these."""
SPLIT_NAMES = {name for names in SPLITS.values() for name in names}


def data_fields(data: Data) -> dict[str, Any]:
    """The `data:` section of a recipe for this data, its rows on the disk; UserError for what is no row.

    Rows are mappings from columns to what JSON has: a list of them, a data set of `datasets`, or one of either for each
    of train, dev and test. The same rows are the same file, whichever process has them.
    """
    if isinstance(data, Mapping):
        fields: dict[str, Any] = {str(name): value for name, value in data.items()}
        if fields and all(name in SPLIT_NAMES and _are_rows(rows) for name, rows in fields.items()):
            return {"path": _kept(fields)}
        if "path" in fields and not isinstance(fields["path"], str):
            fields["path"] = data_fields(fields["path"])["path"]
        return fields
    return {"path": _kept({"": data}) if _are_rows(data) else str(data) if isinstance(data, PathLike) else data}


def _are_rows(value: object) -> TypeGuard[Rows]:
    return isinstance(value, Iterable) and not isinstance(value, str | Mapping)


def _kept(splits: Mapping[str, Rows]) -> str:
    """Where these rows lie: a file, or a folder with one for each split."""
    plain = {split: [_plain(row, number) for number, row in enumerate(rows)] for split, rows in splits.items()}
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


def _plain(row: object, number: int) -> dict[str, Any]:
    if not isinstance(row, Mapping):
        raise UserError(
            f"row {number} is a {type(row).__name__}, not a dict from columns to values: {str(row)[:60]!r}",
            "give rows as [{'text': ..., 'label': ...}, ...]; of a data frame, frame.to_dict('records')",
        )
    # a data frame has NaN where there is nothing
    return {str(name): None if value != value else value for name, value in row.items()}
