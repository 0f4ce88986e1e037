"""Multiple choice: which columns hold the choices of a row, and how another one names the right one of them."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tunewise.data.readers import Row
from tunewise.errors import UserError

LISTS = ("choices", "endings", "options", "candidates")
STEMS = ("", "choice", "option", "sol", "solution", "answer", "ending", "alternative")
"""Columns of one choice each: one of these and a running letter or number, such as A, choice1 or sol2."""
ANSWERS = ("answer", "label", "answerkey", "answer_key", "gold", "correct", "target", "gold_label")
QUESTIONS = (
    ("premise", "question"),
    ("context", "question"),
    ("passage", "question"),
    ("article", "question"),
    ("ctx",),
    ("question",),
    ("question_stem",),
    ("goal",),
    ("premise",),
    ("sentence",),
    ("query",),
    ("input",),
    ("prompt",),
    ("text",),
)

Counting = Literal["letters", "from 0", "from 1", "text"]


@dataclass(frozen=True)
class Choices:
    """The columns of a row's choices, one list or one column each, and how the answer names the right one."""

    columns: tuple[str, ...]
    counting: Counting

    def of(self, row: Row) -> list[str]:
        """The texts of a row's choices, in their order; UserError for fewer than two, or an empty one."""
        texts = _texts(row, self.columns)
        if len(texts) < 2:
            raise UserError(f"it has no list of choices in {', '.join(self.columns)}")
        for number, text in enumerate(texts):
            if not text.strip():
                raise UserError(f"its choice {letter(number)} is empty")
        return texts

    def right(self, told: str, texts: Sequence[str]) -> int:
        """The number of the right one of these, from 0; UserError for an answer that names none of them."""
        number = _number(told.strip(), self.counting, texts)
        if number is None:
            raise UserError(f"its answer {told!r} is none of its {len(texts)} choices")
        return number


def letter(number: int) -> str:
    """A, B, ..., Z, AA, AB, ... for 0, 1, ..."""
    tens = letter(number // 26 - 1) if number >= 26 else ""
    return tens + chr(ord("A") + number % 26)


def lettered(texts: Sequence[str]) -> str:
    """The choices as they are shown in a prompt, one a line: `A. the first`."""
    return "\n".join(f"{letter(number)}. {text}" for number, text in enumerate(texts))


def texts_in(value: str | list) -> list[str]:
    """The texts of a list, of objects with a text, or of an object {"text": [...]} that the reader left as JSON."""
    if isinstance(value, str):
        try:
            found = json.loads(value) if value.startswith("{") else {}
        except json.JSONDecodeError:
            found = {}
        value = found.get("text", []) if isinstance(found, dict) else []
    if not isinstance(value, list):
        return []
    texts = [item.get("text") if isinstance(item, dict) else item for item in value]
    return [text if isinstance(text, str) else json.dumps(text) for text in texts]


def detect_choices(known: Sequence[str], rows: Sequence[Row]) -> tuple[tuple[str, ...], Choices, str] | None:
    """(columns that are asked, choices, column of the answer) of a file whose columns are named so, or None.

    A csv without a header line is one where its last column is a letter that counts those between it and the first.
    """
    lower = {name.lower(): name for name in reversed(known)}
    columns = _choice_columns(known, rows)
    answers = [lower[name] for name in ANSWERS if name in lower]
    asked = next((names for names in QUESTIONS if all(name in lower for name in names)), ())
    if "column4" in known and tuple(known) == tuple(f"column{k + 1}" for k in range(len(known))):
        columns, answers, asked = tuple(known[1:-1]), [known[-1]], (known[0],)
        if counting_of(rows, columns, known[-1]) != "letters":
            return None
    for answer in answers:
        if columns and asked and answer not in columns and (counting := counting_of(rows, columns, answer)):
            return tuple(lower[name] for name in asked), Choices(columns, counting), answer
    return None


def counting_of(rows: Sequence[Row], columns: tuple[str, ...], answer: str) -> Counting | None:
    """How the column `answer` names one of the choices, in nine of ten rows that have both; None where it does not."""
    pairs = [(str(row.fields.get(answer, "")).strip(), _texts(row, columns)) for row in rows]
    pairs = [(told, texts) for told, texts in pairs if told and len(texts) > 1]
    ways: tuple[Counting, ...] = ("letters", "from 0", "from 1", "text")
    n_told = {way: sum(_number(told, way, texts) is not None for told, texts in pairs) for way in ways}
    best = max(ways, key=n_told.__getitem__)
    return best if pairs and 10 * n_told[best] >= 9 * len(pairs) else None


def _number(told: str, counting: Counting, texts: Sequence[str]) -> int | None:
    if counting == "text":
        alike = [number for number, text in enumerate(texts) if text.strip() == told]
        return alike[0] if alike else None
    if counting == "letters":
        names = [letter(number) for number in range(len(texts))]
        return names.index(told.upper()) if told.upper() in names else None
    number = int(told) - (counting == "from 1") if told.isdecimal() else -1
    return number if 0 <= number < len(texts) else None


def _choice_columns(known: Sequence[str], rows: Sequence[Row]) -> tuple[str, ...]:
    lower = {name.lower(): name for name in reversed(known)}
    for name in LISTS:
        if name in lower and any(len(_texts(row, (lower[name],))) > 1 for row in rows):
            return (lower[name],)
    for stem in STEMS:
        for first in ("a", "1", "0"):
            found = _running(stem, first, lower)
            if len(found) > 1 and (stem or first == "a"):
                return found
    return ()


def _running(stem: str, first: str, lower: dict[str, str]) -> tuple[str, ...]:
    """The columns stem + first, stem + the one after it, ..., with or without a line between."""
    plain = {re.sub(r"[_ ]", "", name): original for name, original in lower.items()}
    found = []
    while (name := f"{stem}{first}") in plain:
        found.append(plain[name])
        first = str(int(first) + 1) if first.isdecimal() else chr(ord(first) + 1)
    return tuple(found)


def _texts(row: Row, columns: tuple[str, ...]) -> list[str]:
    if len(columns) == 1:
        return texts_in(row.fields.get(columns[0], ""))
    return [str(row.fields.get(name, "")) for name in columns]
