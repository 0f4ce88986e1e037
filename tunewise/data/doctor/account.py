"""What becomes of every row: trained, cut, rejected or held out; and the proof that they add up to the rows read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunewise.data.doctor.finding import N_SHOWN, Finding, Shown, share
from tunewise.data.doctor.reading import PartRead
from tunewise.data.doctor.rows import PARTS, Rows
from tunewise.data.encode import MASKED, Encoded


@dataclass(frozen=True)
class Cut:
    """A row that is cut: its tokens whole and as kept, and how many of those that were to be trained are lost."""

    part: str
    line: int
    tokens: int
    kept: int
    trained_lost: int


@dataclass(frozen=True)
class RejectedRow:
    """A row that is not used; `part` is "" where it fell out before rows were split into parts."""

    part: str
    line: int
    reason: str


@dataclass(frozen=True)
class Account:
    """Rows as counted in the files, and what became of them; without a base, no row is cut or too long."""

    rows: int
    used: dict[str, int]
    """Rows of each part that a run uses, cut ones among them."""
    cut: tuple[Cut, ...] = ()
    rejected: tuple[RejectedRow, ...] = ()
    left_out: int = 0
    """Training rows that data.train does not take."""
    more: int = 0
    """Earlier answers of conversations that are training rows of their own."""

    @property
    def proved(self) -> bool:
        """Whether every row that was read is used, rejected or left out, and no row is two of these."""
        return self.rows + self.more == sum(self.used.values()) + len(self.rejected) + self.left_out

    @property
    def by_reason(self) -> dict[str, list[RejectedRow]]:
        """The rejected rows by reason, numbers in it aside, the most frequent first; named as the first row has it."""
        alike: dict[str, list[RejectedRow]] = {}
        for row in self.rejected:
            alike.setdefault(re.sub(r"\d+", "N", row.reason), []).append(row)
        return {of[0].reason: of for of in sorted(alike.values(), key=len, reverse=True)}

    def sum_told(self) -> str:
        """ "5,574 rows = 4,460 trained + 557 dev + 557 test + 0 rejected"."""
        names = {"train": "trained", "dev": "dev", "test": "test"}
        terms = [f"{self.used[part]:,} {names[part]}" for part in PARTS if self.used[part] or part == "train"]
        terms += [f"{len(self.rejected):,} rejected"]
        terms += [f"{self.left_out:,} left out by data.train"] if self.left_out else []
        more = f"+ {self.more:,} more answers " if self.more else ""
        return f"{self.rows:,} rows {more}{'=' if self.proved else '≠'} {' + '.join(terms)}"

    def told(self) -> dict[str, Any]:
        """For JSON: every cut and rejected row."""
        return {
            "rows": self.rows,
            "used": self.used,
            "left_out": self.left_out,
            "more": self.more,
            "sum": self.sum_told(),
            "proved": self.proved,
            "cut": [vars(row) for row in self.cut],
            "rejected": [vars(row) for row in self.rejected],
        }


def account_of(rows: Rows) -> Account:
    """What becomes of each row of a task, as its base reads it where there is one."""
    task, ledger = rows.task, rows.task.ledger
    given = {"train": task.train, "dev": task.dev, "test": task.test}
    used = {part: len(examples) for part, examples in given.items()}
    left_out, more = ledger.trained + ledger.more - sum(used.values()), ledger.more
    rejected = [RejectedRow("", note.line, note.reason) for note in ledger.rejected]
    cut: list[Cut] = []
    if rows.reading is not None:
        trained = rows.reading.parts["train"]
        used["train"] = len(trained.encoded)
        more += len(trained.examples) - len(task.train)
        rejected += [RejectedRow("train", note.line, note.reason) for note in trained.ledger.rejected]
        cut += _cut("train", trained)
        for part in ("dev", "test"):
            cut += _beyond(part, rows.reading.parts[part], rows.reading.context)
    return Account(ledger.rows, used, tuple(cut), tuple(rejected), left_out, more)


def _beyond(part: str, read: PartRead, context: int | None) -> list[Cut]:
    """Held-out rows are asked whatever their length; the beginning of what does not fit is cut off."""
    if context is None:
        return []
    lines = {example.id: example.line for example in read.examples}
    return [Cut(part, lines[row.id], len(row.ids), context, 0) for row in read.whole if len(row.ids) > context]


def rejected_rows(found: Rows) -> Iterator[Finding]:
    """Rows that are not used, with the reasons."""
    account = account_of(found)
    if not account.rejected:
        return
    reason, alike = next(iter(account.by_reason.items()))
    most = f", {len(alike):,} of them" if len(alike) < len(account.rejected) else ""
    message = f"{share(len(account.rejected), account.rows)} rejected{most}: {reason}"
    remedy = "correct these lines; --json lists all"
    if found.reading is not None and "max_length" in reason:
        most, is_all = found.reading.context, found.reading.context == found.reading.max_length
        told = "" if most is None else f" ({found.reading.model} reads {most:,} tokens)"
        remedy = (
            f"shorten them, or take a base that reads more than {most:,}" if is_all else f"raise train.max_length{told}"
        )
    shown = tuple(Shown(of[0].part, of[0].line, of[0].reason) for of in account.by_reason.values())
    yield Finding("rejected-rows", "warning", message, remedy, shown[:N_SHOWN], len(account.rejected))


def _cut(part: str, read: PartRead) -> list[Cut]:
    lines = {example.id: example.line for example in read.examples}
    whole = {row.id: row for row in read.whole}
    return [
        Cut(part, lines[row.id], len(whole[row.id].ids), len(row.ids), n_trained(whole[row.id]) - n_trained(row))
        for row in read.encoded
        if row.truncated
    ]


def n_trained(row: Encoded) -> int:
    """Labels of a row that are trained."""
    return int(np.sum(np.asarray(row.labels) != MASKED))
