"""Plain text -> rows: lines, paragraphs, or the whole of it."""

import re
from collections.abc import Iterator
from typing import Literal

Unit = Literal["lines", "paragraphs", "file"]

LONGEST_PARAGRAPH = 20
"""Lines on average; what blank lines part into longer blocks is no prose with paragraphs."""

_BLANK_LINES = re.compile(r"\n[^\S\n]*(?:\n[^\S\n]*)+")


def unit_of(text: str) -> Unit:
    """Paragraphs where blank lines part the text into blocks and a quarter of these have several lines, else lines.

    A line a row is what `datasets` makes of a text file; but prose that is wrapped at 70 characters, as in books and
    manuals, would be torn into rows that begin and end amid a sentence.
    """
    n_lines = [block.count("\n") + 1 for block in _blocks(text)]
    several = sum(n > 1 for n in n_lines)
    wrapped = len(n_lines) > 1 and 4 * several >= len(n_lines) and sum(n_lines) <= LONGEST_PARAGRAPH * len(n_lines)
    return "paragraphs" if wrapped else "lines"


def pieces(text: str, unit: Unit) -> Iterator[tuple[int, str]]:
    """(line, text) of each row that is not blank, without white space around it; line ends inside stay."""
    if unit == "file":
        yield 1, text.strip()
        return
    line = 1
    for separator_or_piece in re.split(f"({_BLANK_LINES.pattern})" if unit == "paragraphs" else r"(\n)", _unix(text)):
        if separator_or_piece.strip():
            ahead = len(separator_or_piece) - len(separator_or_piece.lstrip("\n"))
            yield line + ahead, separator_or_piece.strip()
        line += separator_or_piece.count("\n")


def _blocks(text: str) -> list[str]:
    return [block for block in _BLANK_LINES.split(_unix(text).strip()) if block.strip()]


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n")
