"""Which script a letter and a text are written in: a guess of the language that needs no model."""

import unicodedata
from collections import Counter
from functools import cache

ENOUGH_LETTERS = 8
"""A text with fewer is of no script."""
LOOKED_AT = 200
"""Characters at the beginning of a text, which tell its script."""
JAPANESE = frozenset({"Han", "Hiragana", "Katakana"})
"""Scripts that are written in one text."""
_NAMES = {"Cjk": "Han", "Ideographic": "Han", "Bopomofo": "Han", "Katakana-hiragana": "Katakana"}
_NO_SCRIPT = ("MODIFIER", "FEMININE", "MASCULINE")


@cache
def script_of_letter(letter: str) -> str:
    """Such as Latin, Cyrillic or Han, by the first word of its name in Unicode; "" of what is no letter of a script."""
    name = unicodedata.name(letter, "").removeprefix("FULLWIDTH ").removeprefix("HALFWIDTH ")
    if not letter.isalpha() or name.startswith(_NO_SCRIPT):
        return ""
    word = name.split(" ")[0].capitalize()
    return _NAMES.get(word, word)


def script_of(text: str) -> str:
    """The script that most letters of a text are in, Japanese as Han; "" for a text of few letters."""
    text = text[:LOOKED_AT]
    if text.isascii():
        return "Latin" if len(text) >= ENOUGH_LETTERS and text.lower() != text.upper() else ""
    n_of = Counter(script_of_letter(mark) for mark in text)
    n_of.pop("", None)
    n_of["Han"] += n_of.pop("Hiragana", 0) + n_of.pop("Katakana", 0)
    (script, _), *_ = n_of.most_common(1)
    return script if n_of.total() >= ENOUGH_LETTERS else ""
