"""The retention suite's arithmetic against values worked out by hand."""

import pytest

from tests.evaluation.test_evaluate import as_base, base
from tunewise.data.load import load_task
from tunewise.errors import UserError
from tunewise.evaluation.evaluate import Evaluation
from tunewise.evaluation.overlap import rouge_l
from tunewise.evaluation.retention import retention_loss
from tunewise.evaluation.suite import Look, look_at_harness, look_at_texts, look_of, noise_floor, paired
from tunewise.stats import paired_bootstrap

SENTIMENT = load_task("tiny:sentiment")


def test_gains_and_losses_are_told_apart_and_rounding_is_neither():
    before = look_at_texts("abcd", (2.0, [1.0, 2.0, 3.0, 2.0]))
    after = look_at_texts("abcd", (2.6, [0.5, 2.001, 4.0, 3.5]))  # less is better: a gained, b is noise, c and d lost
    found = paired(before, after, 0.01)
    assert (found["n_items"], found["n_gained"], found["n_lost"]) == (4, 1, 2)
    assert (found["mean_gain"], found["mean_loss"]) == (0.5, 1.25)
    assert found["change"] == pytest.approx(0.6)
    assert found["noise_floor"] == 0.01
    interval = paired_bootstrap([0.5, 2.001, 4.0, 3.5], [1.0, 2.0, 3.0, 2.0], n_resamples=2_000)
    assert found["interval"] == [interval.low, interval.high]
    assert paired(before, after)["n_lost"] == 3, "without a floor the noise counts"


def test_of_scores_more_is_better():
    before, after = Look("accuracy", 50.0, {"a": 100, "b": 0}), Look("accuracy", 0.0, {"a": 0, "b": 0})
    found = paired(before, after)
    assert (found["n_gained"], found["n_lost"], found["mean_gain"], found["mean_loss"]) == (0, 1, 0.0, 100.0)
    assert found["change"] == -50.0
    again = paired(before, before)
    assert (again["n_gained"], again["n_lost"], again["interval"]) == (0, 0, [0.0, 0.0])


def row(number, predicted, expected):
    return {"id": f"{number}", "predicted": predicted, "expected": expected, "correct": predicted == expected}


@pytest.mark.parametrize(
    ("metric", "pairs", "items"),
    [
        ("accuracy", [("x", "x"), ("y", "x")], [100.0, 0.0]),
        ("macro_f1", [("x", "x"), ("y", "x")], [100.0, 0.0]),
        ("exact_match", [("x y", "x y"), ("y", "x")], [100.0, 0.0]),
        ("rougeL", [("a b c", "a c"), ("y", "x")], [100 * rouge_l("a b c", "a c"), 0.0]),
        ("rmse", [("1.5", "1.0"), ("2.0", "5.0")], [-0.5, -3.0]),
        ("loss", [("x", "x"), ("y", "x")], [100.0, 0.0]),
    ],
)
def test_an_item_is_worth_its_own_metric(metric, pairs, items):
    rows = [row(number, *pair) for number, pair in enumerate(pairs)]
    found = look_of(SENTIMENT, Evaluation({metric: 7.0, "other": 1.0}, rows))
    assert (found.metric, found.value, found.of_texts) == (metric, 7.0, False)
    assert list(found.items.values()) == pytest.approx(items)


def test_items_with_one_id_are_kept_apart():
    assert list(look_at_texts(["a", "a"], (1.0, [1.0, 2.0])).items.values()) == [1.0, 2.0]


def test_the_noise_floor_is_what_another_exact_way_changes():
    """Nothing in float64, something in float32, and the very difference of both ways."""
    texts = [f"{'the water was cold ' * (1 + i % 3)}{i}" for i in range(20)]
    whole = as_base(base())
    assert noise_floor(whole, texts, None, retention_loss(whole, texts)[1]) < 1e-12
    coarse = as_base(base().float())
    first = retention_loss(coarse, texts)[1]
    floor = noise_floor(coarse, texts, None, first)
    again = retention_loss(coarse, texts[:16], packing=False, batch_size=5)[1]
    assert floor == max(abs(a - b) for a, b in zip(first[:16], again, strict=True))
    assert 0 < floor < 1e-4


def test_a_task_of_the_harness_is_told_by_the_first_metric_that_its_items_have():
    items = [{"id": 0, "acc": 1.0, "answer": "a"}, {"id": 1, "acc": 0.0, "answer": "b"}]
    found = look_at_harness("boats", {"size": 2.0, "acc": 0.5, "acc_stderr": 0.1, "n": 2, "items": items})
    assert (found.metric, found.value, found.items, found.of_texts) == ("acc", 0.5, {"0": 1.0, "1": 0.0}, False)
    rows = [{"id": 0, "byte_perplexity": 3.0}]
    assert look_at_harness("text", {"byte_perplexity": 3.0, "n": 1, "items": rows}).of_texts
    assert look_at_harness("likely", {"brier_score": 0.3, "n": 1, "items": [{"id": 0, "brier_score": 0.3}]}).of_texts
    with pytest.raises(UserError, match="no score for each item"):
        look_at_harness("mmlu", {"acc": 0.5})
