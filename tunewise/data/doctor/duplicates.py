"""Checks of rows that are there more than once, or nearly so, and of rows that contradict each other."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from tunewise.data.doctor.finding import Finding, Severity, counted, share
from tunewise.data.doctor.rows import ALIKE, PARTS, Rows

Pairs = Mapping[str, Sequence[tuple[int, int]]]

MANY = 0.01
"""Duplicates below this share are a note."""
MANY_NEAR = 0.05


def duplicates(found: Rows) -> Iterator[Finding]:
    """Rows of one part with the same text (letter case and white space aside) and the same answer."""
    pairs = _again(found, lambda one, other: found.answers[one] == found.answers[other])
    if any(pairs.values()):
        remedy = "remove the later ones: they are trained on, or counted, more often than the rest"
        many = any(len(same) >= MANY * len(found.of(part)) for part, same in pairs.items() if same)
        message = f"{in_parts(found, pairs)} with the text and the answer of an earlier one"
        yield finding_of("duplicates", "warning" if many else "note", message, remedy, found, pairs)


def contradictions(found: Rows) -> Iterator[Finding]:
    """Rows of one text with different labels: no model can be right on both."""
    if found.task.kind != "classification":
        return
    pairs = _again(found, lambda one, other: found.answers[one] != found.answers[other])
    if any(pairs.values()):
        message = f"{in_parts(found, pairs)} with the text of an earlier one and another label"
        remedy = "decide which label is right, and remove the other row"
        yield finding_of("contradictions", "warning", message, remedy, found, pairs)


def near_duplicates(found: Rows) -> Iterator[Finding]:
    """Training rows that share most of their words, three by three, with an earlier one."""
    one, other, _ = found.near
    ours = (found.part[one] == 0) & (found.part[other] == 0)
    later, place = np.unique(other[ours], return_index=True)
    if len(later):
        earlier, n = one[ours][place], len(found.task.train)
        told = f"at least {100 * ALIKE:.0f} % of their three-word sequences"
        message = f"{share(len(later), n)} of train with {told} in an earlier one"
        remedy = "remove those that were made from one another; split what is left by group"
        severity = "warning" if len(later) >= MANY_NEAR * n else "note"
        yield Finding("near-duplicates", severity, message, remedy, found.shown(later, earlier), len(later))


def several_answers(found: Rows) -> Iterator[Finding]:
    """Training rows that are asked the same and answered differently: the model learns their mixture."""
    if found.task.kind != "generation":
        return
    ours = found.of("train")
    answers: dict[str, set[str]] = {}
    for number in ours:
        answers.setdefault(found.keys[number], set()).add(found.answers[number])
    n_of = Counter(found.keys[number] for number in ours)
    many = [number for number in ours if len(answers[found.keys[number]]) > 1]
    if many and len(answers) > 1:
        n_asked = len({found.keys[number] for number in many})
        most = max(n_of[found.keys[number]] for number in many)
        message = f"{counted(n_asked, 'prompt')} of train with several answers, the most frequent one in {most:,} rows"
        remedy = "nothing, where all are right; else keep the best answer of each prompt"
        yield Finding("several-answers", "note", message, remedy, found.shown(many), len(many))


def in_parts(found: Rows, pairs: Pairs) -> str:
    """ "348 rows (8 %) of train, 29 rows (5 %) of test"."""
    return ", ".join(f"{share(len(of), len(found.of(part)))} of {part}" for part, of in pairs.items() if of)


def finding_of(code: str, severity: Severity, message: str, remedy: str, found: Rows, pairs: Pairs) -> Finding:
    """A finding of pairs of rows: the first of each part are shown first."""
    first = [of[0] for of in pairs.values() if of] + [pair for of in pairs.values() for pair in of[1:]]
    shown = found.shown([one for one, _ in first], [other for _, other in first])
    return Finding(code, severity, message, remedy, shown, len(first))


def _again(found: Rows, wanted: Callable[[int, int], bool]) -> dict[str, list[tuple[int, int]]]:
    """Part -> (row that repeats an earlier one of it, the first that it repeats), where the two are as `wanted`."""
    generated = found.task.kind == "generation"
    pairs: dict[str, list[tuple[int, int]]] = {}
    for part in PARTS:
        seen: dict[str, int] = {}
        pairs[part] = []
        for number in found.of(part):
            key = f"{found.keys[number]}\0{found.answers[number]}" if generated else found.keys[number]
            first = seen.setdefault(key, number)
            if first != number and wanted(number, first):
                pairs[part].append((number, first))
    return pairs
