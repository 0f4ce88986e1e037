"""What the doctor says: one finding with its severity, what to do about it, and rows that show it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""Errors refuse a training; the others are told."""
N_SHOWN, EXCERPT = 3, 80


@dataclass(frozen=True)
class Shown:
    """One row that shows a finding: its part, its line in that part's file, and a piece of it."""

    part: str
    line: int
    excerpt: str
    twin: "Shown | None" = None
    """The row that it is held against, where a finding is about two."""


@dataclass(frozen=True)
class Finding:
    """`code` is the name of its check; `message` has the value, `remedy` what to type or do; `n_rows` it is about."""

    code: str
    severity: Severity
    message: str
    remedy: str
    rows: tuple[Shown, ...] = ()
    n_rows: int = 0


def by_severity(findings: Sequence[Finding]) -> list[Finding]:
    """Errors first, each kind in its own order."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def excerpt(text: str, around: int = 0) -> str:
    """A piece of `text` on one line, with the character number `around` in it; what cannot be seen is written out."""
    start = 0 if around < EXCERPT - 20 else around - EXCERPT // 2
    piece = "".join(visible(text[start : start + EXCERPT]))
    return ("…" if start else "") + piece + ("…" if start + EXCERPT < len(text) else "")


def visible(text: str) -> Iterator[str]:
    """Each character, a line feed as ↵ and one that cannot be seen as <U+200B>."""
    for mark in text:
        if mark == "\n":
            yield "↵"
        elif mark == "\t":
            yield " "
        else:
            yield mark if mark.isprintable() else f"<U+{ord(mark):04X}>"


def counted(n: int, what: str) -> str:
    """ "1 row", "1,200 rows"."""
    return f"{n:,} {what}{'s' * (n != 1)}"


def share(n: int, of: int, what: str = "row") -> str:
    """ "12 rows (3 %)", with a digit more where that is below one."""
    percent = 100 * n / max(1, of)
    return f"{counted(n, what)} ({percent:.0f} %)" if percent >= 1 or not n else f"{counted(n, what)} ({percent:.1g} %)"
