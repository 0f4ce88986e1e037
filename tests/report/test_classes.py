"""Confusion and calibration of predictions, against scikit-learn's definitions written out, and what the page shows."""

import math
import random

import pytest

from tunewise.report.calibration_figure import N_BINS, calibration_of
from tunewise.report.confusion import confusion_of, mistakes_beside

CLASSES = ("red", "green", "blue")


def rows(n: int, seed: int) -> list[dict]:
    drawn = random.Random(seed)
    found = []
    for _ in range(n):
        scores = {name: drawn.gauss(0, 2) for name in CLASSES}
        predicted = max(scores, key=scores.__getitem__)
        expected = predicted if drawn.random() < 0.7 else drawn.choice(CLASSES)
        found.append({"expected": expected, "predicted": predicted, "correct": expected == predicted, "scores": scores})
    return found


def test_a_confusion_counts_every_item_once() -> None:
    asked = rows(200, seed=3)
    found = confusion_of(asked)
    assert found is not None
    assert found.classes == CLASSES
    for i, one in enumerate(CLASSES):
        for j, other in enumerate(CLASSES):
            wanted = sum(row["expected"] == one and row["predicted"] == other for row in asked)
            assert found.counts[i][j] == wanted > 0
    of_red = [row["correct"] for row in asked if row["expected"] == "red"]
    assert found.recalls[0] == pytest.approx(sum(of_red) / len(of_red))
    counts = [count for _, _, count in found.mistakes()]
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) == sum(not row["correct"] for row in asked)


def test_texts_have_no_confusion_and_no_calibration() -> None:
    written = [{"expected": "a", "predicted": "b", "correct": False}]
    assert confusion_of(written) is None
    assert confusion_of([]) is None
    own_choices = [*rows(3, seed=0), {"expected": "x", "predicted": "y", "correct": False, "scores": {"x": 0, "y": 1}}]
    assert confusion_of(own_choices) is None
    assert calibration_of(written) is None
    assert calibration_of([]) is None


def test_mistakes_of_two_arms_stand_beside_each_other() -> None:
    one, other = confusion_of(rows(150, seed=1)), confusion_of(rows(150, seed=2))
    assert one is not None
    assert other is not None
    found = mistakes_beside([one, other])
    assert len(found) == 6
    totals = [sum(counts) for _, _, counts in found]
    assert totals == sorted(totals, reverse=True)
    assert sum(counts[1] for _, _, counts in found) == sum(count for _, _, count in other.mistakes())


def test_calibration_follows_its_definition() -> None:
    asked = rows(300, seed=5)
    found = calibration_of(asked)
    assert found is not None
    told = []
    for row in asked:
        weights = [math.exp(score) for score in row["scores"].values()]
        told.append((max(weights) / sum(weights), row["correct"]))
    error = 0.0
    for k in range(N_BINS):
        inside = [(p, right) for p, right in told if k / N_BINS < p <= (k + 1) / N_BINS]
        if inside:
            error += abs(sum(right for _, right in inside) - sum(p for p, _ in inside)) / len(told)
    assert found.error == pytest.approx(error)
    assert found.accuracy == pytest.approx(sum(right for _, right in told) / 300)
    assert f"expected calibration error {100 * error:.1f} points" in found.told
    assert sum(each.n for each in found.bins) == 300
