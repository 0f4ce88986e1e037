"""What is told of two arms that are held against one another, and that a failure to tell apart is no equality."""

from pathlib import Path

import pytest

from tunewise.report.arms import Arm
from tunewise.report.differences import differences_elsewhere, differences_of
from tunewise.report.folders import Run
from tunewise.report.protocol import HowCompared
from tunewise.stats import mean_interval
from tunewise.verdict import Contender, Rule, judge

ONE, OTHER = "QLoRA", "LoRA"


def told(scores, others, metric="accuracy", items=None, **rule):
    verdict = judge([Contender(OTHER, tuple(others)), Contender(ONE, tuple(scores))], Rule.of(metric, **rule))
    how = HowCompared(against={ONE: OTHER}, items={(OTHER, ONE): items} if items else {})
    (found,) = differences_of(verdict, how, metric=metric)
    assert found.name == "QLoRA − LoRA"
    return found


def test_equivalent_is_said_where_two_one_sided_tests_show_it():
    found = told([90.0, 90.4, 90.2, 90.1, 90.3], [90.6, 90.5, 90.4, 90.7, 90.3])
    assert found.told == "−0.3 [−0.5, −0.1] over 5 seeds"
    assert found.known.startswith("told apart (p = 0.0")
    assert ", and yet equivalent within ±2 (p < 0.0001)" in found.known
    alike = told([90.0, 90.4, 90.2], [90.1, 90.3, 90.2])
    assert alike.known.startswith("equivalent within ±2 (p = 0.00")


def test_neither_apart_nor_equivalent_is_open():
    found = told([80.0, 90.0, 95.0], [82.0, 93.0, 97.0])
    assert found.told.startswith("−2.3 [")
    assert found.known.startswith("open: not told apart (p = 0.")
    assert "not shown to be within ±2 (p = 0." in found.known


def test_told_apart_alone():
    assert told([70.0, 70.5, 70.2], [90.0, 90.4, 90.1]).known == "told apart (p < 0.0001)"


def test_one_seed_shows_nothing():
    found = told([90.0], [91.0])
    assert found.told == "−1.0 of one seed"
    assert found.known.startswith("nothing")


def test_right_answers_over_the_test_rows_stand_beside_in_the_same_direction():
    items = {"gap": 1.5, "low": -0.5, "high": 3.5, "n": 200}  # of LoRA less QLoRA
    found = told([90.0, 91.0], [92.0, 92.0], items=items)
    assert found.told.endswith("over 2 seeds, right answers −1.5 [−3.5, +0.5] over 200 test rows")


def test_a_metric_of_ones_own_that_tells_of_each_row_is_not_called_right_answers():
    items = {"gap": 0.015, "low": -0.005, "high": 0.035, "n": 200, "by_metric": True}
    found = told([0.90, 0.91], [0.92, 0.92], metric="edit_distance:lower", items=items)
    assert found.told.endswith("over 2 seeds, edit distance −0.015 [−0.035, +0.005] over 200 test rows")


def test_of_a_loss_the_margin_is_told_in_its_units():
    found = told([2.011, 2.012, 2.013], [2.01, 2.011, 2.012], metric="loss", margin=1.0)
    assert found.told == "+0.001 [−0.001, +0.003] over 3 seeds"
    assert found.known.startswith("equivalent within ±0.0201")


def test_a_set_from_elsewhere_is_judged_by_itself():
    def arm(label, *scores):
        metrics = [{"out_of_domain": {"twin": {"accuracy": each}}, "n_out_of_domain": {"twin": 400}} for each in scores]
        runs = tuple(Run(Path(label), {}, each, {}, ()) for each in metrics)
        return Arm(label, runs, "accuracy", scores, mean_interval(scores), None)

    items = {("base", "lora"): {"gap": -22.0, "low": -26.0, "high": -18.0, "n": 400}}
    how = HowCompared(against={"lora": "base"}, elsewhere={"twin": items, "asked of nobody": {}})
    (found,) = differences_elsewhere([arm("base", 50.0, 50.0, 50.0), arm("lora", 70.0, 72.0, 74.0)], how)
    assert found.name == "lora − base on twin"
    # by hand: s of the second is 2, of the first that of rounding to 0.25; t(2.02) is about 4.3
    assert found.told.startswith("+22.0 [+17.0, +27.0] over 3 seeds, right answers +22.0 [+18.0, +26.0] over 400 test")
    assert found.known == "told apart (p = 0.003)"
    assert differences_elsewhere([arm("base", 50.0)], HowCompared(against={"lora": "base"})) == []
    wide = HowCompared(Rule.of("accuracy", margin=40.0, alpha=0.001), against={"lora": "base"}, elsewhere={"twin": {}})
    (found,) = differences_elsewhere([arm("base", 50.0, 50.0, 50.0), arm("lora", 70.0, 72.0, 74.0)], wide)
    assert found.known.startswith("open: not told apart (p = 0.003), not shown to be within ±40 ")


@pytest.mark.parametrize("left_out", ["diverged", "alone"])
def test_an_arm_without_a_result_is_held_against_nothing(left_out):
    verdict = judge([Contender(OTHER, (1.0, 2.0)), Contender("third", (1.0, 2.0))])
    assert differences_of(verdict, HowCompared(against={left_out: OTHER}), metric="accuracy") == []


def test_of_several_pairs_each_may_be_shown_equivalent_at_the_whole_level():
    """p of an equivalence is of one pair alone: what Holm takes from the tests of a difference is not taken from it."""
    scores, others = [90.0, 91.0, 90.4], [90.2, 90.9, 90.1]
    arms = [Contender(OTHER, tuple(others)), Contender(ONE, tuple(scores))]
    arms += [Contender(f"far {n}", (10.0 + n, 30.0 - n, 20.0)) for n in range(3)]
    verdict = judge(arms, Rule.of("accuracy", margin=1.5))
    pair = verdict.pair(ONE, OTHER)
    assert verdict.level < pair.p_equivalent < verdict.alpha
    (found,) = differences_of(verdict, HowCompared(against={ONE: OTHER}), metric="accuracy")
    assert found.known.startswith("equivalent within ±1.5")
