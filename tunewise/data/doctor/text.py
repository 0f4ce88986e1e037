"""Checks of the characters that rows are written in."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence

from tunewise.data.doctor.finding import Finding, Shown, share
from tunewise.data.doctor.rows import Rows
from tunewise.data.scripts import script_of

DELIBERATE = 0.05
"""Rows of another script than most are meant to be there where they are more than this share."""
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_C1 = re.compile("[\x80-\x9f]")
_UNSEEN = re.compile("[\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff\u00ad]")
_LOST = re.compile("\ufffd")
_BIDI = re.compile("[\u202a-\u202e\u2066-\u2069]")
_MARKUP = re.compile(
    r"&(?:amp|lt|gt|quot|nbsp|apos|#\d{1,5}|#x[0-9a-fA-F]{1,5});|</?(?:br|p|div|span|font)\b[^<>]{0,99}>"
)
# the bytes that UTF-8 begins a Latin letter, a quotation mark or a Cyrillic or Greek letter with, read as cp1252
_MISREAD = re.compile(r"[ÂÃÄÅ][\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]|â[\x80€].|(?:[ÐÑÎÏ][^\sA-Za-z]){2}")
Pattern = re.Pattern[str]
_BYTES = {chr(number): bytes([number]) for number in range(0x80, 0xA0)}


def control_characters(found: Rows) -> Iterator[Finding]:
    """Control characters but for tab and line ends (C0 and delete): what a broken export leaves."""
    numbers = _that_have(found, _CONTROL, found.unprintable)
    if numbers:
        message = f"{share(len(numbers), len(found.examples))} with control characters"
        remedy = r"remove them: tr -d '\000-\010\013\014\016-\037\177' < FILE > CLEANED"
        shown = _shown(found, numbers, _CONTROL)
        yield Finding("control-characters", "warning", message, remedy, shown, len(numbers))


def unseen_characters(found: Rows) -> Iterator[Finding]:
    """Characters of no width, byte-order marks, marks of writing direction: tokenizers see them, readers do not."""
    numbers = _that_have(found, _UNSEEN, found.unprintable)
    if numbers:
        n_of = Counter(mark for number in numbers for mark in _UNSEEN.findall(found.bodies[number]))
        told = ", ".join(f"{unicodedata.name(mark, '').lower()} {n:,}" for mark, n in n_of.most_common(3))
        turned = any(_BIDI.search(mark) for mark in n_of)
        message = f"{share(len(numbers), len(found.examples))} with characters that cannot be seen ({told})"
        remedy = "remove them" + (": text that is shown in another order than it is read hides what it says" * turned)
        shown = _shown(found, numbers, _UNSEEN)
        yield Finding("unseen-characters", "warning" if turned else "note", message, remedy, shown, len(numbers))


def replacement_characters(found: Rows) -> Iterator[Finding]:
    """U+FFFD, which stands where a character was lost in decoding."""
    numbers = _that_have(found, _LOST, found.beyond_ascii)
    if numbers:
        message = f"{share(len(numbers), len(found.examples))} with U+FFFD, the mark of a lost character"
        remedy = "read the source again in its own encoding: iconv -f cp1252 -t utf-8 SOURCE > FILE"
        shown = _shown(found, numbers, _LOST)
        yield Finding("replacement-characters", "warning", message, remedy, shown, len(numbers))


def misread_encoding(found: Rows) -> Iterator[Finding]:
    """Text that was read in another encoding than its own and written again: Ã© for é, U+0092 for ’."""
    numbers = [n for n in _that_have(found, _MISREAD, found.beyond_ascii) if misread(found.bodies[n])]
    if numbers:
        wrong = misread(found.bodies[numbers[0]])
        message = (
            f"{share(len(numbers), len(found.examples))} with UTF-8 that was read in another encoding, such as "
            f"{wrong!r} for {undone(wrong)!r}"
        )
        remedy = "read the source again as UTF-8; ftfy repairs what is left of it"
        shown = _shown(found, numbers, re.compile(re.escape(wrong)))
        yield Finding("misread-encoding", "warning", message, remedy, shown, len(numbers))
    if controls := _that_have(found, _C1, found.unprintable):
        n_of = Counter(mark for number in controls for mark in _C1.findall(found.bodies[number]))
        mark = n_of.most_common(1)[0][0]
        stands_for = mark.encode("latin-1").decode("cp1252", "replace")
        message = (
            f"{share(len(controls), len(found.examples))} with cp1252 that was read as Latin-1, such as "
            f"U+{ord(mark):04X} for {stands_for!r}"
        )
        remedy = "read the source again: iconv -f cp1252 -t utf-8 SOURCE > FILE"
        shown = _shown(found, controls, _C1)
        yield Finding("misread-encoding", "warning", message, remedy, shown, len(controls))


def markup(found: Rows) -> Iterator[Finding]:
    """What a web page leaves in text: &amp; and <br>."""
    likely = [number for number, text in enumerate(found.bodies) if "&" in text or "<" in text]
    numbers = _that_have(found, _MARKUP, likely)
    if numbers:
        message = f"{share(len(numbers), len(found.examples))} with pieces of HTML"
        remedy = "html.unescape() turns &amp; into what it stands for"
        yield Finding("markup", "note", message, remedy, _shown(found, numbers, _MARKUP), len(numbers))


def mixed_normal_forms(found: Rows) -> Iterator[Finding]:
    """Letters written as a letter and its accent in some rows, and as one character in others: unlike tokens."""
    beyond = found.beyond_ascii
    bad = [number for number in beyond if not unicodedata.is_normalized("NFC", found.bodies[number])]
    if bad and len(bad) < len(beyond):
        message = (
            f"{share(len(bad), len(found.examples))} with accents as characters of their own (not in the form NFC), "
            "others without"
        )
        remedy = "unicodedata.normalize('NFC', text) writes all in one way"
        yield Finding("mixed-normal-forms", "note", message, remedy, found.shown(bad), len(bad))


def mixed_scripts(found: Rows) -> Iterator[Finding]:
    """A few rows in another script than the rest: another language, or another file."""
    if not found.beyond_ascii:
        return
    sides = [("asked", found.asked)] + ([("answered", found.answers)] if found.task.kind == "generation" else [])
    for what, texts in sides:
        scripts = [script_of(text) for text in texts]
        n_of = Counter(filter(None, scripts))
        (main, n_main), *others = n_of.most_common() or [("", 0)]
        if not others:
            continue
        numbers = [number for number, script in enumerate(scripts) if script not in ("", main)]
        message = f"{share(len(numbers), len(texts))} {what} in another script than {main}: " + ", ".join(
            f"{script} {n:,}" for script, n in others[:4]
        )
        few = len(numbers) <= DELIBERATE * (n_main + len(numbers))
        remedy = "remove them, unless the set is meant to be of several languages"
        yield Finding(
            "mixed-scripts", "warning" if few else "note", message, remedy, found.shown(numbers), len(numbers)
        )


def misread(text: str) -> str:
    """The first stretch of a text that is UTF-8 read as cp1252, or ""."""
    return next((match[0] for match in re.finditer(r"[^\x00-\x7f]{2,}", text) if _is_misread(match[0])), "")


def undone(text: str) -> str:
    """What text that was misread stood for."""
    return b"".join(_BYTES.get(mark) or mark.encode("cp1252") for mark in text).decode()


def _is_misread(stretch: str) -> bool:
    if not _MISREAD.search(stretch):
        return False
    try:
        return undone(stretch).replace("\xa0", " ").isprintable()
    except UnicodeError:
        return False


def _that_have(found: Rows, pattern: Pattern, among: Sequence[int]) -> list[int]:
    """The rows of these in which the pattern is found."""
    return [number for number in among if pattern.search(found.bodies[number])]


def _shown(found: Rows, numbers: Sequence[int], pattern: Pattern) -> tuple[Shown, ...]:
    """The first of these rows, each at the place where the pattern is found."""

    def place(number: int) -> int:
        match = pattern.search(found.bodies[number])
        return match.start() if match else 0

    return found.shown(numbers, around=place)
