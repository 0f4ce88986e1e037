from dataclasses import replace

import pytest

from tests.evaluation.test_evaluate import task
from tunewise.data.examples import Ledger
from tunewise.data.out_of_domain import OutOfDomain
from tunewise.evaluation.evaluate import Evaluation
from tunewise.evaluation.out_of_domain import by_its_labels


def evaluation(chosen, metrics):
    return Evaluation(metrics, [{"id": str(i), "predicted": one} for i, one in enumerate(chosen)], 2, 1)


def test_classes_count_as_the_labels_of_the_set():
    chosen = ["neutral", "entailment", "contradiction", "entailment", "neutral"]
    expected = ("not", "not", "not", "entailment", "entailment")
    counts_as = {"neutral": "not", "contradiction": "not", "entailment": "entailment"}
    found = by_its_labels(
        evaluation(chosen, {"accuracy": 0.0, "macro_f1": 0.0, "loss": 1.0}),
        OutOfDomain("hans", task(), expected, counts_as, Ledger()),
    )
    # told as not, entailment, not, entailment, not: F1 is 2 · 2 / (2 · 2 + 1 + 1) and 2 · 1 / (2 · 1 + 1 + 1)
    assert found.metrics == pytest.approx({"accuracy": 60.0, "macro_f1": 100 * (2 / 3 + 1 / 2) / 2})
    assert [row["correct"] for row in found.predictions] == [True, False, True, True, False]
    assert [row["chosen"] for row in found.predictions] == chosen
    assert (found.n_dropped, found.n_truncated) == (2, 1)


def test_a_class_that_counts_as_none_is_wrong():
    asked = OutOfDomain("one", task(), ("yes",), {"entailment": "yes"}, Ledger())
    found = by_its_labels(evaluation(["neutral"], {"accuracy": 0.0}), asked)
    assert found.metrics == {"accuracy": 0.0}
    assert found.predictions[0]["predicted"] == "neutral"


def test_a_metric_of_ones_own_is_told_anew_of_all_and_of_each(tmp_path):
    """What a row was worth by the classes of the task is not what it is worth by the labels of the set."""
    (tmp_path / "mine.py").write_text("def mine(told, right): return [90.0 * (a == b) for a, b in zip(told, right)]\n")
    own = replace(task(), metrics=(f"{tmp_path}/mine.py:mine",))
    before = Evaluation({"mine": 0.0}, [{"id": str(i), "predicted": "neutral", "worth": 0.0} for i in range(2)])
    found = by_its_labels(before, OutOfDomain("hans", own, ("not", "yes"), {"neutral": "not"}, Ledger()))
    assert found.metrics == {"mine": 45.0}
    assert [row["worth"] for row in found.predictions] == [90.0, 0.0]


def test_the_same_classes_are_left_as_they_are():
    found = evaluation(["neutral"], {"accuracy": 3.0, "loss": 1.0})
    assert by_its_labels(found, OutOfDomain("same", task(), (), {}, Ledger())) is found
