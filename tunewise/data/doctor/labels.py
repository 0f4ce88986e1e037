"""Checks of the labels of a classification or of tags."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from tunewise.data.doctor.finding import Finding, counted, share
from tunewise.data.doctor.rows import PARTS, Rows

MAJORITY, RATIO, SLIGHT_RATIO = 0.9, 20, 3
FEW = 5
"""A label with fewer training rows is hardly learnt, and its score is a matter of chance."""


def one_class(found: Rows) -> Iterator[Finding]:
    """A part of a classification in which all rows have one label."""
    if found.task.kind != "classification":
        return
    for part in PARTS:
        labels = Counter(_labels(found, part))
        if len(labels) == 1:
            (label, n), *_ = labels.items()
            severity = "error" if part == "train" else "warning"
            what = "there is nothing to learn" if part == "train" else "whoever says it always is right"
            message = f"all {n:,} rows of {part} have the label {label!r}: {what}"
            remedy = "add rows of the other labels, or let one file be split: data.split=[0.8,0.1,0.1]"
            yield Finding("one-class", severity, message, remedy, found.shown(found.of(part)[:1]), n)


def unseen_labels(found: Rows) -> Iterator[Finding]:
    """Labels of dev or test that no training row has, and the reverse."""
    if found.task.kind not in ("classification", "tagging"):
        return
    seen = {part: Counter(_labels(found, part)) for part in PARTS}
    unseen = [label for label in {**seen["test"], **seen["dev"]} if label not in seen["train"]]
    if unseen:
        numbers = [number for number, _ in enumerate(found.examples) if set(_of(found, number)) & set(unseen)]
        n_asked = len(found.task.dev) + len(found.task.test)
        told = f"{_named(unseen)}; {share(len(numbers), n_asked)} of dev and test"
        message = f"{counted(len(unseen), 'label')} in no training row ({told})"
        remedy = "add training rows with them, or drop them from the test"
        yield Finding("unseen-labels", "warning", message, remedy, found.shown(numbers), len(numbers))
    untested = [label for label in seen["train"] if label not in seen["test"]]
    if untested and seen["test"]:
        message = f"{counted(len(untested), 'label')} of train in no test row ({_named(untested)})"
        yield Finding("unseen-labels", "note", message, "nothing, or a larger test part: data.split=[0.6,0.2,0.2]")


def labels_spelt_alike(found: Rows) -> Iterator[Finding]:
    """Labels that differ in letter case, white space or a hyphen alone: two classes where one was meant."""
    if found.task.kind not in ("classification", "tagging"):
        return
    n_of = Counter(label for part in PARTS for label in _labels(found, part))
    alike: dict[str, list[str]] = {}
    for label in sorted(n_of):
        alike.setdefault(re.sub(r"[\s_-]+", " ", label).strip().casefold(), []).append(label)
    twins = [labels for labels in alike.values() if len(labels) > 1]
    if twins:
        told = "; ".join(" and ".join(f"{label!r} ({n_of[label]:,})" for label in labels) for labels in twins[:3])
        rarer = [min(labels, key=n_of.__getitem__) for labels in twins]
        numbers = [number for number in range(len(found.examples)) if set(_of(found, number)) & set(rarer)]
        remedy = "write each label in one way"
        yield Finding(
            "labels-spelt-alike",
            "warning",
            f"labels that look like one: {told}",
            remedy,
            found.shown(numbers),
            len(numbers),
        )


def label_imbalance(found: Rows) -> Iterator[Finding]:
    """Labels of very unlike frequency in train, with the accuracy of always saying the most frequent one."""
    labels = Counter(_labels(found, "train")) if found.task.kind == "classification" else Counter()
    if len(labels) < 2:
        return
    (most, n_most), *_ = labels.most_common()
    least, n_least = labels.most_common()[-1]
    n = labels.total()
    entropy = -sum(k / n * math.log(k / n) for k in labels.values()) / math.log(len(labels))
    if n_most < SLIGHT_RATIO * n_least:
        return
    severity = "warning" if n_most >= MAJORITY * n or n_most >= RATIO * n_least else "note"
    message = (
        f"{most!r} in {share(n_most, n)} of train, {least!r} in {share(n_least, n)}: {n_most / n_least:.1f} to 1, "
        f"entropy {entropy:.2f} of 1"
    )
    message += f"; always saying {most!r} is right in {100 * n_most / n:.0f} %" * (2 * n_most > n)
    remedy = "judge by macro_f1 or mcc (data.metrics=macro_f1,mcc), weigh the rare ones (train.class_weights=balanced)"
    yield Finding("label-imbalance", severity, message, remedy, n_rows=n)


def rare_labels(found: Rows) -> Iterator[Finding]:
    """Labels with hardly any training row."""
    labels = Counter(_labels(found, "train")) if found.task.kind == "classification" else Counter()
    rare = [label for label, n in labels.items() if n < FEW]
    if rare and len(labels) > 1 and labels.total() >= FEW * len(labels):
        message = f"{len(rare):,} of {len(labels):,} labels with fewer than {FEW} training rows ({_named(rare)})"
        numbers = [number for number in found.of("train") if found.answers[number] in rare]
        yield Finding(
            "rare-labels", "note", message, "add rows of them, or join labels", found.shown(numbers), len(numbers)
        )


def _of(found: Rows, number: int) -> Sequence[str]:
    example = found.examples[number]
    return example.tags or (() if example.label is None else (example.label,))


def _labels(found: Rows, part: str) -> Iterator[str]:
    return (label for number in found.of(part) for label in _of(found, number))


def _named(labels: Sequence[str]) -> str:
    return ", ".join(labels[:4]) + (", ..." if len(labels) > 4 else "")
