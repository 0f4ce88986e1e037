"""Checks of prompts and answers: what all rows have in common that they should not."""

from collections import Counter
from collections.abc import Iterator

from tunewise.data.doctor.finding import Finding, counted, share
from tunewise.data.doctor.rows import Rows

ENOUGH = 10
"""Rows, for a check of what all of them have in common."""
REPEATED, NEARLY_ALL = 0.1, 0.9
PLACEHOLDERS = frozenset(
    "n/a na none null nil nan todo tbd ? - -- ... … . unknown [deleted] [removed] #n/a #ref!".split()
)


def one_prompt(found: Rows) -> Iterator[Finding]:
    """Training rows that are all asked the same: an empty template, a wrong column."""
    ours = found.of("train")
    if found.is_text or found.task.reads_images or len(ours) < ENOUGH:
        return
    asked = {found.keys[number] for number in ours}
    if len(asked) == 1 and len({found.answers[number] for number in ours}) > 1:
        severity = "warning" if found.is_chat else "error"
        message = f"all {len(ours):,} training rows are asked the same: {next(iter(asked))[:60]!r}"
        remedy = "name the column that is asked: data.text=COLUMN, or data.prompt=COLUMN"
        yield Finding("one-prompt", severity, message, remedy, found.shown(ours), len(ours))


def one_answer(found: Rows) -> Iterator[Finding]:
    """Training rows of a generation that are all answered the same."""
    ours = found.of("train")
    if found.task.kind == "generation" and len(ours) >= ENOUGH and len({found.answers[n] for n in ours}) == 1:
        message = f"all {len(ours):,} training rows have one answer: {found.answers[ours[0]][:60]!r}"
        remedy = "name the column with the answers: data.completion=COLUMN"
        yield Finding("one-answer", "error", message, remedy, found.shown(ours), len(ours))


def repeated_answers(found: Rows) -> Iterator[Finding]:
    """One answer that a good part of the training rows of a generation have."""
    ours = found.of("train")
    if found.task.kind != "generation" or len(ours) < ENOUGH:
        return
    answer, n = Counter(found.answers[number] for number in ours).most_common(1)[0]
    if REPEATED * len(ours) <= n < len(ours) and n > 1:
        numbers = [number for number in ours if found.answers[number] == answer]
        message = f"{share(n, len(ours))} of train with the answer {answer[:60]!r}"
        remedy = "nothing, where questions have so few answers; else thin these rows out"
        yield Finding("repeated-answers", "note", message, remedy, found.shown(numbers), n)


def empty_answers(found: Rows) -> Iterator[Finding]:
    """Answers that are a placeholder; those that are empty are rejected with that reason."""
    if found.task.kind != "generation":
        return
    bad = [number for number, answer in enumerate(found.answers) if answer.casefold() in PLACEHOLDERS]
    empty = [note for note in found.task.ledger.rejected if "answer is empty" in note.reason]
    if bad or empty:
        what = Counter(found.answers[number] for number in bad).most_common(1)
        told = [f"{counted(len(empty), 'row')} without an answer, rejected"] if empty else []
        told += (
            [f"{share(len(bad), len(found.answers))} answered with a placeholder such as {what[0][0]!r}"] if bad else []
        )
        remedy = "remove these rows" if bad else "nothing: they are not trained on"
        yield Finding("empty-answers", "warning", "; ".join(told), remedy, found.shown(bad), len(bad) + len(empty))


def answer_in_prompt(found: Rows) -> Iterator[Finding]:
    """Training rows whose answer stands word for word at the end of what is asked."""
    ours = found.of("train")
    if found.is_text or len(ours) < ENOUGH or found.task.kind in ("tagging", "multiple_choice"):
        return
    told = [number for number in ours if _ends_with(found.asked[number], found.answers[number])]
    if len(told) >= NEARLY_ALL * len(ours) and len({found.answers[number] for number in ours}) > 1:
        message = (
            f"{share(len(told), len(ours))} of train asked with their own answer at the end: it need only be copied"
        )
        remedy = "leave the answer out of the columns that are asked: data.text=COLUMN"
        yield Finding("answer-in-prompt", "warning", message, remedy, found.shown(told), len(told))


def _ends_with(asked: str, answer: str) -> bool:
    text, end = asked.casefold().rstrip(" \n\t.!?\"')]"), answer.casefold().strip(" \n\t.!?\"')]")
    return bool(end) and text.endswith(end) and not text[: len(text) - len(end)][-1:].isalnum()
