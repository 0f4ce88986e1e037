"""Files -> rows: csv, tsv, jsonl, json and plain text, each row with the line it starts on."""

import csv
import gzip
import json
import math
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

from tunewise.data.nested import opened
from tunewise.data.plain_text import Unit, pieces, unit_of
from tunewise.errors import UserError, unknown, unreadable
from tunewise.files import read_text

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".txt")
"""Any of them may be compressed, as in .jsonl.gz."""

# Names that make a first line a header without further thought.
HEADER_WORDS = frozenset(
    "text label labels sentence content category class target intent sentiment prompt completion question answer "
    "instruction input output response messages premise hypothesis sentence1 sentence2 text1 text2 id idx index".split()
)


class Empty(UserError):
    """A file without a row."""


@dataclass(frozen=True)
class Row:
    """One row: the line it starts on, counted from 1, and its fields. Only json has lists; numbers come as text."""

    line: int
    fields: dict[str, str | list]
    source: dict | None = field(default=None, compare=False, repr=False)
    """The object that `fields` were read from, where it held more than text and lists."""

    @property
    def value(self) -> dict:
        """The row as it was read, to be written out again."""
        return self.fields if self.source is None else self.source


def read_rows(path: str | Path, unit: Unit | None = None) -> list[Row]:
    """The rows of a csv, tsv, jsonl, json or txt file. A csv or tsv without a header line gets column1, column2, ...

    A row of a txt file is a line, a paragraph or the whole; None tells which by its blank lines. UserError for a file
    that is missing, empty, of another kind, not UTF-8 (line and byte) or malformed (line).
    """
    file = Path(path)
    suffix = suffix_of(file)
    if suffix not in SUFFIXES and file.is_file():
        raise UserError(
            f"cannot read {path}: {suffix or 'a file without a suffix'} is no kind of file known here",
            f"convert it to one of {', '.join(SUFFIXES)}",
        )
    text = text_of(file)
    if not text.strip():
        raise Empty(f"{path} is empty", "name a file with at least a few rows")
    if suffix in (".csv", ".tsv"):
        rows = list(separated(file, lambda: text.split("\n")))
    elif suffix == ".txt":
        rows = [Row(line, {"text": piece}) for line, piece in pieces(text, unit or unit_of(text))]
    else:
        rows = [row_of(file, line, value) for line, value in opened(file, _values(file, text))]
    if not rows:
        raise Empty(f"{path} has no rows", "name a file with at least a few rows")
    return rows


def suffix_of(file: Path) -> str:
    """The suffix that tells what kind of file it is: .jsonl of rows.jsonl and of rows.jsonl.gz."""
    return (Path(file.stem) if file.suffix.lower() == ".gz" else file).suffix.lower()


def text_of(file: Path) -> str:
    """The text of a UTF-8 file, compressed (.gz) or not; UserError for other bytes and for damaged ones."""
    text = _unpacked(file) if file.suffix.lower() == ".gz" else read_text(file)
    if 4 * text[:1000].count("\0") > len(text[:1000]):
        raise UserError(
            f"{file} is UTF-16, by its many NUL bytes, and not UTF-8",
            f"convert it first: iconv -f utf-16le -t utf-8 {file} > converted{file.suffix}",
        )
    # a carriage return alone is a line end too: old Excel for Macintosh writes it
    return re.sub(r"\r(?!\n)", "\n", text) if "\r" in text else text


def _unpacked(file: Path) -> str:
    try:
        return gzip.decompress(file.read_bytes()).decode("utf-8-sig")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{file} is no whole gzip file: {error}", "fetch it again, or make it again: gzip -k") from None
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(file, error) from None


def columns(rows: Sequence[Row]) -> list[str]:
    """The names of all fields, in the order in which they first appear."""
    return list(dict.fromkeys(name for row in rows for name in row.fields))


def require(name: str, known: list[str], path: str) -> str:
    """The column's name, if there is such a column; UserError with the nearest one otherwise."""
    if name not in known:
        error = unknown("column", name, known)
        raise UserError(f"{error.message} in {path}", error.hint)
    return name


Lines = Callable[[], Iterable[str]]
"""The lines of a text from its first one on, without their line feeds, each time it is called."""


def separated(path: Path, lines: Lines, most: int | None = None) -> Iterator[Row]:
    """The rows of a csv or tsv; whether its first line is a header is told by so many lines at `most`, or by all."""
    tabs = suffix_of(path) == ".tsv"
    records = _tabbed(lines) if tabs else _comma_separated(path, lines)
    first = list(islice(records, most))
    if not first:
        return
    header = _header(path, [cells for _, cells in first])
    names = header or [f"column{number}" for number in range(1, len(first[0][1]) + 1)]
    for line, cells in chain(first[1:] if header else first, records):
        if len(cells) != len(names):
            n_inside, mark = sum(cell.count("\n") for cell in cells), "a tab" if tabs else "the separator"
            raise UserError(
                f"{path}, line {line} has {len(cells)} cells, the lines before it have {len(names)}",
                f"a quote that is open there takes in {n_inside} lines below it: close it, or double quotes inside text"
                if n_inside
                else f"put quotes around text that holds {mark}, or correct line {line}",
            )
        yield Row(line, dict(zip(names, cells)))


def _tabbed(lines: Lines) -> Iterator[tuple[int, list[str]]]:
    """Lines cut at tabs, quotes being ordinary characters; quoted cells only where the lines disagree without them."""

    def cut() -> Iterator[tuple[int, list[str]]]:
        for number, line in enumerate(lines(), start=1):
            if line.strip():
                yield number, line.rstrip("\r").split("\t")

    if len({len(cells) for _, cells in cut()}) > 1 and len({len(cells) for _, cells in _records(lines, "\t")}) == 1:
        return _records(lines, "\t")
    return cut()


def _comma_separated(path: Path, lines: Lines) -> Iterator[tuple[int, list[str]]]:
    """Records of a csv; the separator is the first of comma, semicolon and tab that the first line is cut by."""
    first = next(line for line in lines() if line.strip())
    separator = next((mark for mark in ",;\t" if len(next(csv.reader([first], delimiter=mark))) > 1), ",")
    last_line = 1
    try:
        for line, cells in _records(lines, separator):
            last_line = line
            yield line, cells
    except csv.Error as error:
        raise UserError(
            f"{path}, after line {last_line}: {error}",
            "is a quote left open there? double the quotes inside a quoted text",
        ) from None


def _records(lines: Lines, separator: str) -> Iterator[tuple[int, list[str]]]:
    # one document in a cell may well exceed csv's default of 131,072 characters
    limit = csv.field_size_limit(sys.maxsize)
    try:
        reader = csv.reader((f"{part}\n" for part in lines()), delimiter=separator)
        line = 1
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield line, cells
            line = reader.line_num + 1
    finally:
        csv.field_size_limit(limit)


def _header(path: Path, records: list[list[str]]) -> list[str]:
    """The first record's cells if they are names of columns, else []; UserError for a name that two columns have."""
    names = [name.strip() for name in records[0]]
    is_known = any(name.lower() in HEADER_WORDS for name in names)
    if names[0] == "" and is_known and "index" not in names:
        names[0] = "index"  # pandas writes its index so
    if not all(re.fullmatch(r"[^\W\d][\w .\-/()]{0,39}", name) for name in names):
        return []
    if len(set(names)) < len(names):
        return _refused_twice(path, names) if is_known else []
    if is_known:
        return names
    # a value such as "ham" comes again further down; the name of a column does not
    again = any(name == cell.strip() for record in records[1:] for name, cell in zip(names, record))
    return [] if again or len(records) == 1 else names


def _refused_twice(path: Path, names: Sequence[str]) -> list[str]:
    twice = next(name for number, name in enumerate(names) if name in names[:number])
    raise UserError(f"{path} has two columns named {twice!r}", "give each column a name of its own in the first line")


def _values(path: Path, text: str) -> Iterator[tuple[int, object]]:
    """(line, value) of each row of a json or jsonl file; which of the two it is, its content says."""
    start = len(text) - len(text.lstrip())
    if text[start] == "[":
        return _items(path, text, start)
    first, _, rest = text[start:].partition("\n")
    if path.suffix.lower() == ".jsonl" or (rest.strip() and _is_json(first)):
        return _lines(path, text)
    return _wrapped(path, text)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _lines(path: Path, text: str) -> Iterator[tuple[int, object]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise _bad_json(path, number, error) from None


def _wrapped(path: Path, text: str) -> Iterator[tuple[int, object]]:
    """The rows of an object that holds one list of objects, such as {"version": 1, "data": [...]}."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _bad_json(path, 1, error) from None
    lists = [
        key
        for key, value in (whole.items() if isinstance(whole, dict) else ())
        if isinstance(value, list) and value and isinstance(value[0], dict)
    ]
    if len(lists) != 1:
        raise UserError(
            f"{path} holds {_kind(whole)}, not rows", "write a list of objects, [{...}, {...}], or one object a line"
        )
    opening = re.search(re.escape(json.dumps(lists[0], ensure_ascii=False)) + r"\s*:\s*\[", text)
    if opening is None:
        return enumerate(whole[lists[0]], start=1)
    return _items(path, text, opening.end() - 1)


def _items(path: Path, text: str, start: int) -> Iterator[tuple[int, object]]:
    """The items of the list that opens at `start`, decoded one by one so that each knows its line."""
    decoder = json.JSONDecoder()
    between = re.compile(r"[\s,]*")
    position, line, counted = start + 1, 1, 0
    while True:
        gap = between.match(text, position)
        position = gap.end() if gap else position
        line, counted = line + text.count("\n", counted, position), position
        if text.startswith("]", position):
            return
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise _bad_json(path, line, error) from None
        yield line, value


def row_of(path: str | Path, line: int, value: object) -> Row:
    """A json object as a row; errors as in `fields_of`."""
    fields = fields_of(path, line, value)
    return Row(line, fields, value if isinstance(value, dict) and fields != value else None)


def fields_of(path: str | Path, line: int, value: object) -> dict[str, str | list]:
    """A json object as a row's fields; UserError, naming the line, for anything else."""
    if not isinstance(value, dict):
        raise UserError(
            f"{path}, line {line} holds {_kind(value)}, not an object",
            'write rows such as {"text": "...", "label": "..."}',
        )
    fields = {str(key): plain(item) for key, item in value.items()}
    try:
        _json(fields).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise UserError(
            f"{path}, line {line} holds half a surrogate pair ({half!r}), which is no character",
            f"remove it from line {line}",
        ) from None
    return fields


def plain(value: object) -> str | list:
    """Text and lists as they are, nothing (None, NaN) as "", numbers and the rest as JSON writes them."""
    if isinstance(value, str | list):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return _json(value)


def _json(value: object) -> str:
    """JSON, in which a date or a decimal number is text and bytes are counted."""
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if not isinstance(value, dict | list | int | float | bool | None):
        return str(value)
    return json.dumps(value, ensure_ascii=False, default=_json)


def _kind(value: object) -> str:
    names = {
        dict: "an object",
        list: "a list",
        str: "a string",
        int: "a number",
        float: "a number",
        bool: "true or false",
    }
    return names.get(type(value), "null")


def _bad_json(path: Path, line: int, error: ValueError | RecursionError) -> UserError:
    if isinstance(error, json.JSONDecodeError):
        # a text of one line counts its own; a file's is told by the error
        line = max(line, error.lineno)
        return UserError(
            f"{path}, line {line} is no valid JSON: column {error.colno}: {error.msg}", f"correct line {line}"
        )
    what = "is nested too deep" if isinstance(error, RecursionError) else "holds a number of thousands of digits"
    return UserError(f"{path}, line {line} {what}", f"remove it from line {line}, or write it as text")
