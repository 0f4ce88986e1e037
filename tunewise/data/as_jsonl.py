"""A big file of another kind as the jsonl file that is read row by row: written once, under a digest of its content."""

import codecs
import gzip
import json
import logging
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from tunewise import files
from tunewise.cache import cache_folder, keep_newest
from tunewise.data.hub import each_parquet_row
from tunewise.data.readers import Row, separated, suffix_of, text_of

logger = logging.getLogger(__name__)

KINDS = (".csv", ".tsv", ".parquet")
HEADER_FROM = 20_000
"""Lines by which it is told whether the first one is a header."""
CHUNK = 1 << 20
KEPT = 32
"""Copies, more than a mixture has sources; the one used longest ago goes first."""


def as_jsonl(path: Path) -> Path:
    """Where the rows of this file lie as jsonl, each on the line on which it starts there: a jsonl file is its own.

    Raises UserError as reading it whole does.
    """
    if suffix_of(path) not in KINDS:
        return path
    place = cache_folder() / "copies" / files.sha256_once(path)[:32]
    copy = place / f"{path.name.removesuffix('.gz').removesuffix(suffix_of(path))}.jsonl"
    if not copy.is_file():
        logger.info("%s is written as jsonl once, to be read row by row", path)
        rows = each_parquet_row(path) if suffix_of(path) == ".parquet" else _rows(path)
        with files.folder(place) as temporary:
            for chunk in _chunks(rows):
                files.append_bytes(temporary / copy.name, chunk)
    keep_newest(place, KEPT)
    return copy


def _rows(path: Path) -> Iterator[Row]:
    def lines() -> Iterator[str]:
        return _lines(path)

    try:
        first = next(lines(), "")
        if "\0" in first[:1000]:  # UTF-16, as which it is refused there
            text_of(path)
        yield from separated(path, lines, HEADER_FROM)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError):
        text_of(path)  # which tells the place
        raise


def _lines(path: Path) -> Iterator[str]:
    """As `text_of` has them, cut at line feeds."""
    with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as stream:
        for number, content in enumerate(stream):
            text = content.removeprefix(codecs.BOM_UTF8 if number == 0 else b"").decode()
            # a carriage return alone is a line end too
            yield from re.sub(r"\r(?!\n|$)", "\n", text.removesuffix("\n")).split("\n")


def _chunks(rows: Iterable[Row]) -> Iterator[bytes]:
    """Lines of json, with empty ones before a row that starts further down."""
    lines: list[str] = []
    n_lines = size = 0
    for row in rows:
        lines += [""] * (row.line - n_lines - 1)
        lines.append(json.dumps(row.value))
        n_lines, size = row.line, size + len(lines[-1])
        if size > CHUNK:
            yield "\n".join([*lines, ""]).encode()
            lines, size = [], 0
    yield "\n".join([*lines, ""]).encode() if lines else b""
