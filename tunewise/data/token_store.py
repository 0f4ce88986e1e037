"""Rows as token ids on disk: cut once for the same rows, tokenizer and length, and mapped into memory.

A folder for each set of rows, tokens/KEY in the cache folder, written in one step as everything is:

    ids.bin       int32: the ids of all rows behind one another
    labels.bin    int32 likewise, or float64 where rows have values
    segments.bin  int8 likewise, empty where the tokenizer has no segments
    names.bin     the rows' own ids, UTF-8
    rows.bin      int64 (N, 7): where a row ends in each of these four; its prompt_length, whether it was cut, its line
    account.json  the type of the labels, and what is said of rows that were cut or refused
    manifest.json size and SHA-256 of each; a folder that is not as it says is made anew

KEY is a digest of every row with its line, of the tokenizer, of how it cuts (form), and of VERSION. Only the pages that
are looked at are in memory. TUNEWISE_TOKENS_GB caps the folder (a quarter of what is free), the rows used longest ago
make room, and 0 keeps nothing. Images, which have no ids, and few texts are never kept.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import fields
from itertools import accumulate, chain
from operator import attrgetter
from pathlib import Path
from typing import Any, overload

import numpy as np

from tunewise import files
from tunewise.cache import allowed_bytes, cache_folder
from tunewise.data.encode import CHUNK, Account, Encoded, Outcome, Told, words_of_cut
from tunewise.data.examples import Example, Ledger, Note, Part
from tunewise.data.streamed import Streamed
from tunewise.errors import UserError

logger = logging.getLogger(__name__)

VERSION = 1
CAP = "TUNEWISE_TOKENS_GB"
WORTH_KEEPING = 1 << 20
"""Characters: fewer are cut again in less time than they are looked for."""
OPEN = 8
"""So many sets of rows are looked up without reading them again."""
STALE_SECONDS = 86_400
"""What a killed process left half-written is cleared away after a day."""
ENDS, COLUMNS = 4, 7
_PARTS = ("ids", "labels", "segments", "names")

# all that an example has, whatever it gets in time; its parts, which are slow to write out, on their own
_FIELDS = attrgetter(*(field.name for field in fields(Example) if field.name != "parts"))
_FIELDS_OF_PART = attrgetter(*(field.name for field in fields(Part)))

Each = Callable[[Sequence[Example]], Iterator[Outcome]]
Rows = Sequence[Encoded]
_OPENED: OrderedDict[Path, tuple[StoredRows, Ledger]] = OrderedDict()


def encoded(examples: Sequence[Example], each: Each, told: Told, cut: str) -> tuple[Rows, Ledger]:
    """What `each` makes of the examples, in order, and the account of all; UserError where it leaves none.

    `cut` names all that `each` depends on. Rows that are worth it come from the store, or go there.
    """
    cap = _cap()
    if not cap or not _is_worth_keeping(examples):
        return _in_memory(examples, each, told)
    path = cache_folder() / "tokens" / _key(examples, cut)
    found = _opened(path)
    if found is None:
        _make(path, examples, each, told)
        found = _opened(path)
        _make_room(path.parent, cap, path)
    return _in_memory(examples, each, told) if found is None else found


class StoredRows(Sequence[Encoded]):
    """Rows that are read from the store as they are asked for; equal to those that were written."""

    def __init__(self, folder: Path, is_value: bool) -> None:
        self._rows = _mapped(folder / "rows.bin", np.int64).reshape(-1, COLUMNS)
        self._ids = _mapped(folder / "ids.bin", np.int32)
        self._labels = _mapped(folder / "labels.bin", np.float64 if is_value else np.int32)
        self._segments = _mapped(folder / "segments.bin", np.int8)
        self._names = _mapped(folder / "names.bin", np.uint8)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Encoded: ...
    @overload
    def __getitem__(self, index: slice) -> list[Encoded]: ...
    def __getitem__(self, index: int | slice) -> Encoded | list[Encoded]:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                return [self[number] for number in range(start, stop, step)]
            return list(self._between(start, max(start, stop)))
        number = range(len(self))[index]
        return next(self._between(number, number + 1))

    def __iter__(self) -> Iterator[Encoded]:
        for start in range(0, len(self), CHUNK):
            yield from self._between(start, min(start + CHUNK, len(self)))

    @property
    def lengths(self) -> np.ndarray:
        """How many ids each row has."""
        return np.diff(self._rows[:, 0], prepend=0)

    def cut(self) -> list[int]:
        """The numbers of the rows that lost something."""
        return np.flatnonzero(self._rows[:, 5]).tolist()

    def line(self, number: int) -> int:
        """Where a row starts in its file."""
        return int(self._rows[number, 6])

    def prompt_length(self, number: int) -> int:
        """As in `Encoded`."""
        return int(self._rows[number, 4])

    def _between(self, start: int, stop: int) -> Iterator[Encoded]:
        """The rows of one stretch, which is read in one go."""
        before = self._rows[start - 1, :ENDS].tolist() if start else [0] * ENDS
        table = self._rows[start:stop].tolist()
        last = table[-1] if table else before
        ids, labels, segments = (
            values[before[place] : last[place]].tolist()
            for place, values in enumerate((self._ids, self._labels, self._segments))
        )
        names = self._names[before[3] : last[3]].tobytes()
        i, j, k, m = 0, 0, 0, 0
        for row in table:
            to_i, to_j, to_k, to_m = (end - first for end, first in zip(row, before))
            yield Encoded(
                names[m:to_m].decode("utf-8", "surrogatepass"),
                tuple(ids[i:to_i]),
                tuple(labels[j:to_j]),
                row[4],
                bool(row[5]),
                tuple(segments[k:to_k]),
            )
            i, j, k, m = to_i, to_j, to_k, to_m


class JoinedRows(Sequence[Encoded]):
    """The rows of several parts behind one another, each part as it is: rows on disk stay there."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        self._parts = parts
        self._ends = list(accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self._ends[-1]

    @overload
    def __getitem__(self, index: int) -> Encoded: ...
    @overload
    def __getitem__(self, index: slice) -> list[Encoded]: ...
    def __getitem__(self, index: int | slice) -> Encoded | list[Encoded]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        number = bisect_right(self._ends, place)
        return self._parts[number][place - self._ends[number] + len(self._parts[number])]

    def __iter__(self) -> Iterator[Encoded]:
        return chain.from_iterable(self._parts)

    @property
    def lengths(self) -> np.ndarray:
        """How many ids each row has."""
        return np.concatenate([lengths(part) for part in self._parts])


def joined(parts: Sequence[Rows]) -> Rows:
    """The rows of all parts in their order, of which no row is read or copied."""
    return parts[0] if len(parts) == 1 else JoinedRows(parts)


def lengths(rows: Rows) -> np.ndarray:
    """How many ids each row has; of stored rows without reading them."""
    if isinstance(rows, StoredRows | JoinedRows):
        return rows.lengths
    return np.array([len(row.ids) for row in rows], np.int64)


def by_length(rows: Rows) -> list[int]:
    """The numbers of all rows, the shortest first; those of one length in their order."""
    return np.argsort(lengths(rows), kind="stable").tolist()


def longest(rows: Rows, n: int) -> list[int]:
    """The numbers of the n longest rows, the longest first."""
    return np.argsort(-lengths(rows), kind="stable")[:n].tolist()


def _in_memory(examples: Sequence[Example], each: Each, told: Told) -> tuple[Rows, Ledger]:
    account = Account(told)
    return list(account.kept(each(examples))), account.ledger()


def _is_worth_keeping(examples: Sequence[Example]) -> bool:
    n_characters = 0
    for example in examples:
        if example.image:
            return False
        n_characters += sum(len(part.text) for part in example.parts)
        if n_characters >= WORTH_KEEPING:
            return True
    return False


def _key(examples: Sequence[Example], cut: str) -> str:
    digest = hashlib.sha256(f"{VERSION} {cut}".encode())
    if isinstance(examples, Streamed):
        digest.update(examples.digest.encode())
        return digest.hexdigest()[:32]
    for one in examples:
        digest.update(repr((_FIELDS(one), *map(_FIELDS_OF_PART, one.parts))).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:32]


def _make(path: Path, examples: Sequence[Example], each: Each, told: Told) -> None:
    """Write the rows; where there is no room for them, say so and leave it."""
    refused: list[UserError] = []

    def rows(account: Account) -> Iterator[Encoded]:
        try:
            yield from account.kept(each(examples))
            account.ledger()  # where no row is left
        except UserError as error:
            refused.append(error)
            raise

    try:
        with files.folder(path) as temporary:
            _write(temporary, rows, told)
    except UserError as error:
        if refused:
            raise refused[0] from None
        if not (path / files.MANIFEST).is_file():  # not that another process was there first
            logger.warning("the tokens of these rows are not kept: %s", error.message)


def _write(folder: Path, rows: Callable[[Account], Iterator[Encoded]], told: Told) -> None:
    account, is_value, ends = Account(told), False, [0] * ENDS
    kinds = {"ids": "i", "labels": "i", "segments": "b", "names": "B", "rows": "q"}
    pending: dict[str, array[Any]] = {}

    def flush() -> None:
        for name, values in pending.items():
            files.append_bytes(folder / f"{name}.bin", values.tobytes())
            del values[:]

    for number, row in enumerate(rows(account)):
        if not number:
            is_value = isinstance(row.labels[0], float)
            pending |= {name: array(kind) for name, kind in (kinds | ({"labels": "d"} if is_value else {})).items()}
        name = row.id.encode("utf-8", "surrogatepass")
        for place, (part, values) in enumerate(zip(_PARTS, (row.ids, row.labels, row.segments, name), strict=True)):
            pending[part].extend(values)
            ends[place] += len(values)
        pending["rows"].extend((*ends, row.prompt_length, int(row.truncated), account.line))
        if number % CHUNK == CHUNK - 1:
            flush()
    flush()
    rejected = [[note.line, note.reason] for note in account.rejected]
    files.write_json(folder / "account.json", {"is_value": is_value, "cut": told.cut, "rejected": rejected})


def _opened(path: Path) -> tuple[StoredRows, Ledger] | None:
    """The rows in that folder and their account; None where they are not there, or not as they were written."""
    if path in _OPENED and (path / files.MANIFEST).is_file():
        _OPENED.move_to_end(path)
        with suppress(OSError):  # of another user's cache
            os.utime(path)  # used now
        return _OPENED[path]
    _OPENED.pop(path, None)
    if not path.is_dir():
        return None
    try:
        files.verify(path)
        told = files.read_json(path / "account.json")
        assert isinstance(told, dict)
        rows = StoredRows(path, told["is_value"])
        ledger = _ledger(rows, told)
        with suppress(OSError):
            os.utime(path)
    except (UserError, OSError, ValueError, KeyError, AssertionError) as error:
        logger.warning("%s is damaged, and its tokens are made again: %s", path, error)
        shutil.rmtree(path, ignore_errors=True)
        return None
    _OPENED[path] = rows, ledger
    while len(_OPENED) > OPEN:
        _OPENED.popitem(last=False)
    return rows, ledger


def _ledger(rows: StoredRows, told: dict[str, Any]) -> Ledger:
    cut = [Note(rows.line(n), words_of_cut(told["cut"], rows.prompt_length(n))) for n in rows.cut()]
    rejected = [Note(line, reason) for line, reason in told["rejected"]]
    return Ledger(len(rows) + len(rejected), len(rows), tuple(cut), tuple(rejected))


def _mapped(path: Path, kind: type[np.generic]) -> np.ndarray:
    """The values of a file, of which no page is read before it is looked at."""
    if not path.stat().st_size:
        return np.empty(0, kind)
    return np.asarray(np.memmap(path, kind, "r"))


def _cap() -> int:
    """Bytes that may be kept; 0 keeps nothing."""
    return allowed_bytes(CAP, shutil.disk_usage(cache_folder()).free)


def _make_room(root: Path, cap: int, kept: Path) -> None:
    """Remove what was used longest ago until the rest takes no more than `cap`; what is `kept` stays."""
    found = []
    for folder in root.iterdir() if root.is_dir() else ():
        try:
            age, size = folder.stat().st_mtime, sum(file.stat().st_size for file in folder.iterdir())
        except OSError:  # which another process removes this moment
            continue
        if folder.name.startswith("."):
            if time.time() - age > STALE_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
        elif folder != kept:
            found.append((age, size, folder))
        else:
            cap -= size
    for _, size, folder in sorted(found, reverse=True):
        cap -= size
        if cap < 0:
            shutil.rmtree(folder, ignore_errors=True)
