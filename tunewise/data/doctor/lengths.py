"""How long rows are, what a shorter or longer context would cost, and checks of both."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewise.data.doctor.account import account_of
from tunewise.data.doctor.finding import Finding, share
from tunewise.data.doctor.reading import Flat, Reading
from tunewise.data.doctor.rows import Rows
from tunewise.data.encode import MASKED

SHORTEST, LONGEST = 256, 1 << 20
"""The contexts of the table are these and the powers of two between them, up to one in which every row fits."""
BATCH = 8
"""Rows of a batch whose padding is counted, in the order of the file."""
MANY_CUT = 0.05
TIMES_THE_MEDIAN, LONG_CHARACTERS = 20, 8_192
"""A row is absurdly long beyond both."""


@dataclass(frozen=True)
class AtContext:
    """The training rows at one context: how many are cut or rejected, and what is left of them."""

    context: int
    cut: int
    answers_hit: int
    """Rows that lose tokens which were to be trained, rejected ones among them."""
    rejected: int
    trained_share: float
    """Of the tokens that were to be trained, those that are."""
    tokens: int
    """Tokens that a packed pass over the rows reads."""
    padded_tokens: int
    """The same, where batches of `BATCH` rows are padded to their longest."""


@dataclass(frozen=True)
class Lengths:
    """Tokens a training row: percentiles, and the table of contexts."""

    median: int
    p95: int
    p99: int
    longest: int
    max_length: int
    context: int | None
    at: tuple[AtContext, ...]

    def told(self) -> dict[str, Any]:
        return {**vars(self), "at": [vars(each) for each in self.at]}


def lengths_of(reading: Reading) -> Lengths | None:
    """The lengths of the training rows, nothing cut; None where there are none."""
    flat = reading.parts["train"].flat_whole
    n = np.diff(flat.starts)
    if not len(n):
        return None
    p50, p95, p99, longest = (int(np.percentile(n, q, method="higher")) for q in (50, 95, 99, 100))
    powers = [context for context in _powers() if context < 2 * longest] or [SHORTEST]
    own = [] if reading.context is None or reading.context > powers[-1] else [reading.context]
    contexts = sorted({*powers, reading.max_length, *own})
    return Lengths(p50, p95, p99, longest, reading.max_length, reading.context, tuple(at(reading, c) for c in contexts))


def at(reading: Reading, context: int) -> AtContext:
    """The training rows cut to `context` tokens, by the rule of the encoder that this base's rows are made by."""
    part = reading.parts["train"]
    flat, n = part.flat_whole, np.diff(part.flat_whole.starts)
    n_trained = flat.n_trained
    prompts = np.fromiter((row.prompt_length for row in part.whole), np.int64, len(part.whole))
    kept, lost = np.minimum(n, context), np.zeros(len(n), np.int64)
    if reading.way == "one sequence":
        answers = n - prompts
        rejected = context - answers < np.minimum(prompts, reading.n_begin + 1)
        cut = (n > context) & ~rejected
        for row in np.flatnonzero(cut & (n_trained > answers)):  # earlier turns that are trained lose their beginning
            lost[row] = _lost(flat, int(row), reading.n_begin, int(n[row]) - context)
    elif reading.way == "read and written":
        rejected = np.diff(flat.label_starts) > context
        cut = (n > context) & ~rejected
    else:
        rejected, cut = np.zeros(len(n), bool), n > context
    lost[rejected], kept[rejected] = n_trained[rejected], 0
    padded = kept[kept > 0]
    batches = [padded[start : start + BATCH] for start in range(0, len(padded), BATCH)]
    return AtContext(
        context=context,
        cut=int(cut.sum()),
        answers_hit=int((lost > 0).sum()),
        rejected=int(rejected.sum()),
        trained_share=float(1 - lost.sum() / max(1, n_trained.sum())),
        tokens=int(kept.sum()),
        padded_tokens=int(sum(batch.max() * len(batch) for batch in batches)),
    )


def truncated_rows(found: Rows) -> Iterator[Finding]:
    """Training rows that are cut to train.max_length, and whether what is trained is hit."""
    if found.reading is None:
        return
    account = account_of(found)
    cut = [row for row in account.cut if row.part == "train"]
    if not cut:
        return
    hit = [row for row in cut if row.trained_lost]
    most = found.reading.context
    fitting = max(row.tokens for row in cut)
    n_lost = sorted(row.tokens - row.kept for row in cut)[len(cut) // 2]
    told = f"{len(hit):,} of them lose what was to be trained" if hit else "no answer is hit"
    n_rows, kept = share(len(cut), len(found.task.train)), cut[0].kept
    message = f"{n_rows} of train cut to {kept:,} tokens, by {n_lost:,} in the median; {told}"
    remedy = f"train.max_length={fitting} keeps all"
    if most is not None and fitting > most:
        remedy = (
            f"split or shorten them: {found.reading.model} reads {most:,} tokens, and the longest row has {fitting:,}"
        )
    severity = "warning" if hit or len(cut) > MANY_CUT * len(found.task.train) else "note"
    numbers = {example.line: number for number, example in enumerate(found.task.train)}
    yield Finding(
        "truncated-rows", severity, message, remedy, found.shown([numbers[row.line] for row in cut]), len(cut)
    )


def held_out_too_long(found: Rows) -> Iterator[Finding]:
    """Dev and test rows longer than the base's context: their prompts are cut when they are asked."""
    if found.reading is None or found.reading.context is None:
        return
    cut = [row for row in account_of(found).cut if row.part != "train"]
    if cut:
        n = len(found.task.dev) + len(found.task.test)
        told = f"the {found.reading.context:,} tokens that {found.reading.model} reads"
        message = f"{share(len(cut), n)} of dev and test longer than {told}"
        yield Finding(
            "held-out-too-long",
            "warning",
            message,
            "shorten them, or take a base with a longer context",
            n_rows=len(cut),
        )


def absurdly_long_rows(found: Rows) -> Iterator[Finding]:
    """Rows many times as long as the others: whole files in one cell, quotes that were never closed."""
    n = np.fromiter(
        (len(asked) + len(answer) for asked, answer in zip(found.asked, found.answers)), np.int64, len(found.asked)
    )
    if not len(n):
        return
    middle = int(np.median(n))
    long = np.flatnonzero((n > TIMES_THE_MEDIAN * middle) & (n > LONG_CHARACTERS))
    if len(long):
        longest = long[np.argsort(-n[long], kind="stable")]
        told = f"{TIMES_THE_MEDIAN} times as long as the middle one ({middle:,} characters)"
        message = f"{share(len(long), len(n))} more than {told}, up to {n.max():,}"
        remedy = "look at these lines: is a quote left open, or a whole document in one row?"
        yield Finding("absurdly-long-rows", "warning", message, remedy, found.shown(longest), len(long))


def _powers() -> list[int]:
    found = [SHORTEST]
    while found[-1] < LONGEST:
        found.append(2 * found[-1])
    return found


def _lost(flat: Flat, row: int, n_begin: int, n_cut: int) -> int:
    """Labels among the first `n_cut` tokens behind the begin token."""
    start = int(flat.label_starts[row]) + n_begin
    gone: NDArray[np.int64] = flat.labels[start : start + n_cut]
    return int(np.sum(gone != MASKED))
