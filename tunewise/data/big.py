"""Big files: one pass makes an index, from which the task's parts are sequences that read rows when asked.

A file of more than `BIG` bytes is read so, the shape told from its first rows; one that is no jsonl by its copy in the
cache folder (`as_jsonl`). The index is kept in the cache folder,
under a digest of the file and of all that its rows are read by, until `KEPT` others have been made; a pass that ends
early leaves nothing. Where dev and test are split off, at most `MOST_HELD_OUT` rows go into each of them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tunewise import files
from tunewise.cache import cache_folder, keep_newest
from tunewise.data.as_jsonl import KINDS, as_jsonl
from tunewise.data.build import RESULT, build, ids_of
from tunewise.data.config import DataConfig
from tunewise.data.conversations import Conversations
from tunewise.data.detect import detect
from tunewise.data.examples import Example, Note
from tunewise.data.readers import Row, columns, fields_of, suffix_of
from tunewise.data.rows_read import RowsRead, how_asked, read_whole
from tunewise.data.shapes import Shape
from tunewise.data.sources import single_files
from tunewise.data.splits import digest_number
from tunewise.data.streamed import Index, Named, Source, Streamed, numbers_of, state_of
from tunewise.data.template import Template
from tunewise.errors import UserError, unreadable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

BIG = 64 << 20
DETECTED_FROM = 20_000
"""Rows by which the shape of a big file is told."""
MOST_HELD_OUT = 2_000
KEPT = 8
VERSION = 2
FLUSH = 65_536
TELL_SECONDS = 10.0
COLUMNS = {"offset": "q", "size": "i", "line": "q", "prompt": "Q", "text": "Q", "asked": "Q", "label": "Q"}


class NotByRows(Exception):
    """A row becomes several examples, so that one cannot be read by its place."""


def is_big(config: DataConfig) -> bool:
    """Whether these are read row by row: files of rows, one of them big, whose rows are asked as they are written."""
    paths = list(single_files(config).values())
    as_written = config.pattern == "none" and not config.words and config.trained_on == "answers"
    if not (as_written and config.group is None and config.rows is None):
        return False
    by_line = bool(paths) and all(path.suffix.lower() == ".jsonl" or suffix_of(path) in KINDS for path in paths)
    return by_line and any(path.stat().st_size > BIG for path in paths) and not any(map(_is_one_list, paths))


def read_big(config: DataConfig, tokenizer: PreTrainedTokenizerBase | None) -> RowsRead:
    """The rows of the file of each part, or of one file to be split; UserError as for files that are read whole.

    They are read whole after all where a chat template cannot write every conversation in one text.
    """
    named = single_files(config)
    paths = {part: as_jsonl(path) for part, path in named.items()}
    first: list[Row] = []
    for part, path in paths.items():
        rows = [row for _, _, row in islice(_rows(path), DETECTED_FROM)]
        if not rows:
            raise UserError(f"{named[part]} is empty", "name a file with at least a few rows")
        first += rows
    shape, known = detect(first, config), columns(first)
    template, chat = how_asked(shape, config, known, tokenizer)
    reading = Reading(shape, template, chat, config.seed, alone=len(paths) == 1)
    whole: dict[str, Streamed] = {}
    rejected: list[Note] = []
    n_rows, changed = 0, Counter[str]()
    try:
        for part, path in paths.items():
            whole[part], told = _read(path, reading)
            rejected += [Note(line, f"{named[part].name}: {why}" if part else why) for line, why in told["rejected"]]
            n_rows += told["n_rows"]
            changed.update(told["changed"])
    except NotByRows:
        logger.info("%s is read whole: its chat template writes some conversations as several texts", config.path)
        return read_whole(config, tokenizer)
    if chat:
        chat.told = changed
    return RowsRead(
        config=config,
        shape=shape,
        template=template,
        known=known,
        n_rows=n_rows,
        rejected=rejected,
        every=Named(whole) if len(whole) > 1 else next(iter(whole.values())),
        parts=lambda: _parts(whole, config),
        chat=chat.template if chat else None,
        told=f"; {chat.sentence()}" if chat else "",
    )


@dataclass(frozen=True)
class Reading:
    """How rows become examples."""

    shape: Shape
    template: Template
    chat: Conversations | None
    seed: int
    alone: bool
    """Whether the rows are of one file, and may keep ids of their own."""

    def made(self, row: Row, stem: str) -> Example | str:
        """The example, or why there is none. Raises NotByRows where it is several."""
        examples, notes = build([row], self.shape, self.template, ids_of([row], stem), self.chat)
        if not examples:
            return notes[0].reason
        if examples[0].apart:
            raise NotByRows
        return examples[0]

    def mark(self) -> str:
        """Of all that an example depends on beside its row."""
        written: tuple[object, ...] = ()
        if self.chat is not None:
            template = self.chat.template
            special = sorted((name, str(token)) for name, token in template.special.items())
            written = template.source, template.with_tools, special, template.tokens, sorted(self.chat.roles)
        return repr((VERSION, self.shape, self.template, written, self.seed, self.alone))


def _parts(whole: Mapping[str, Streamed], config: DataConfig) -> dict[str, Sequence[Example]]:
    """Train as it is; dev and test, which are asked whole, as examples where they are no big files of their own."""
    parts = {name: part for name, part in whole.items() if name not in ("", "train")}
    shares = {name: share for name, share in zip(("train", "dev", "test"), config.split) if name not in parts}
    rest = whole.get("") or whole["train"]
    parts |= dict(zip(shares, rest.split(list(shares.values()), MOST_HELD_OUT), strict=True))
    told: dict[str, Sequence[Example]] = {"train": parts["train"]}
    for name in ("dev", "test"):
        is_own_file = name in whole and whole[name].source.path.stat().st_size > BIG
        told[name] = parts[name] if is_own_file else tuple(parts[name])
    return told


def _read(path: Path, reading: Reading) -> tuple[Streamed, dict[str, Any]]:
    """All rows of a file, and what is told of them; from the index, or by making it."""
    how = f"{files.sha256_once(path)} {path.stem} {reading.mark()}"
    mark, stem = hashlib.sha256(how.encode()).hexdigest()[:32], path.stem
    folder = cache_folder() / "indexes" / mark
    told = _told(folder)
    if told is None:
        with files.folder(folder) as temporary:
            _index(temporary, path, reading)
        told = _told(folder)
        keep_newest(folder, KEPT)
    assert told is not None, folder
    kinds = {name: np.dtype(kind) for name, kind in COLUMNS.items()}
    index = Index(**{name: _mapped(folder / f"{name}.bin", kind) for name, kind in kinds.items()})
    has_own_ids = told["has_own_ids"]

    def make(row: Row) -> Example:
        found = reading.made(row, stem)
        assert isinstance(found, Example), found
        return found if has_own_ids else replace(found, id=f"{stem}:{row.line}")

    state = state_of(path)
    source = Source(path, state, index, make, mark, reading.seed, has_own_ids, tuple(told["witnesses"]))
    return Streamed(source, np.arange(len(index.offset))), told


def _told(folder: Path) -> dict[str, Any] | None:
    """What is written of the rows in an index; None where there is none, or a damaged one, which is removed."""
    if not folder.is_dir():
        return None
    try:
        files.verify(folder)
        told = files.read_json(folder / "rows.json")
    except UserError as error:
        logger.warning("%s is damaged, and made again: %s", folder, error.message)
        shutil.rmtree(folder, ignore_errors=True)
        return None
    assert isinstance(told, dict)
    return told


def _index(folder: Path, path: Path, reading: Reading) -> None:
    """Write a column a file, and what cannot be told by numbers into rows.json."""
    table = {name: array(kind) for name, kind in COLUMNS.items()}
    identities: array[int] | None = array("Q") if reading.alone else None
    witnesses, rejected = _Witnesses(reading.shape.kind in ("classification", "tagging")), []
    n = n_rows = 0
    n_bytes, told_at = path.stat().st_size, time.monotonic()
    for offset, size, row in _rows(path):
        n_rows += 1
        identity = str(row.fields.get("id", ""))
        identities = None if identities is None or not identity else identities
        if identities is not None:
            identities.append(digest_number(reading.seed, identity))
        example = reading.made(row, path.stem)
        if isinstance(example, str):
            rejected.append((row.line, example))
            continue
        witnesses.see(n, example)
        keys = numbers_of(example, reading.seed), digest_number(reading.seed, example.label or "")
        for name, value in zip(table, (offset, size, row.line, *keys[0], keys[1]), strict=True):
            table[name].append(value)
        n += 1
        if n % FLUSH == 0:
            _flush(folder, table)
            if time.monotonic() - told_at > TELL_SECONDS:
                told_at = time.monotonic()
                logger.info("%s: %d rows read, %.0f %% of %.1f GB", path, n, 100 * offset / n_bytes, n_bytes / 1e9)
    _flush(folder, table)
    all_apart = identities is not None and len(np.unique(np.frombuffer(identities, np.uint64))) == len(identities)
    changed = dict(reading.chat.told) if reading.chat else {}
    told = {
        "has_own_ids": all_apart, "witnesses": witnesses.numbers(), "rejected": rejected, "n_rows": n_rows,
        "changed": changed,
    }  # fmt: skip
    files.write_json(folder / "rows.json", told)


class _Witnesses:
    """The first rows with something that no row before had."""

    def __init__(self, labelled: bool) -> None:
        self._labelled, self._seen = labelled, dict[str, int]()
        self._longest = (-1, 0)

    def see(self, number: int, example: Example) -> None:
        answer = example.answer
        if len(answer) > self._longest[0]:
            self._longest = len(answer), number
        marks = [f"label {tag}" for tag in (*example.tags, example.label)] if self._labelled else []
        if not example.accepted:
            marks.append("one answer")
        if not RESULT.search(answer):
            marks.append("no result")
        if "\n\n" in answer:
            marks.append("blank line")
        if example.end:
            marks.append(f"end {example.end}")
        for mark in marks:
            self._seen.setdefault(mark, number)

    def numbers(self) -> list[int]:
        return sorted({*self._seen.values(), self._longest[1]}) if self._longest[0] >= 0 else []


def _rows(path: Path) -> Iterator[tuple[int, int, Row]]:
    """(offset, bytes, row) of each line that is not blank; UserError, naming it, for one that is no row."""
    offset = 0
    with path.open("rb") as stream:
        for line, content in enumerate(stream, start=1):
            start, offset = offset, offset + len(content)
            try:
                text = content.decode("utf-8" if line > 1 else "utf-8-sig")
                if not text.strip():
                    continue
                value = json.loads(text.removesuffix("\n"))
            except UnicodeDecodeError as error:
                error.object, error.start = b"\n" * (line - 1) + content, error.start + line - 1
                raise unreadable(path, error) from None
            except json.JSONDecodeError as error:
                message = f"{path}, line {line} is no valid JSON: column {error.colno}: {error.msg}"
                raise UserError(message, f"correct line {line}") from None
            if isinstance(value, dict) and isinstance(value.get("paragraphs"), list):
                raise UserError(
                    f"{path}, line {line} is an article of questions, and big files are read row by row",
                    'write one question a line: {"context": "...", "question": "...", "answers": [...]}',
                )
            yield start, len(content), Row(line, fields_of(path, line, value))


def _flush(folder: Path, table: Mapping[str, array[int]]) -> None:
    for name, values in table.items():
        files.append_bytes(folder / f"{name}.bin", values.tobytes())
        del values[:]


def _mapped(path: Path, kind: np.dtype) -> np.ndarray:
    return np.asarray(np.memmap(path, kind, "r")) if path.stat().st_size else np.empty(0, kind)


def _is_one_list(path: Path) -> bool:
    """Whether the file is one list of rows under a name that says otherwise."""
    if suffix_of(path) in KINDS:
        return False
    with path.open("rb") as stream:
        return stream.read(4096).decode("utf-8-sig", "replace").lstrip()[:1] == "["
