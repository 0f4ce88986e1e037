"""After how many queries training is paid back: in closed form, and in words."""

import json

import pytest

from tunewise.break_even import between, break_even_of, can_break_even
from tunewise.report.arms import gather_arms
from tunewise.report.break_even import paid_back
from tunewise.report.decision import decide
from tunewise.report.folders import read_runs


def metrics(n_trainable=0, seconds=0.0, tokens=0, a_query=(0.5, 100), serving=0.0, accuracy=80.0):
    return {
        "n_trainable": n_trainable, "train_seconds": seconds, "tokens": tokens, "seconds_a_query": a_query[0],
        "prompt_tokens": a_query[1], "serving_tokens": serving, "test": {"accuracy": accuracy}, "seed": 0,
    }  # fmt: skip


def test_the_training_is_paid_back_when_queries_have_saved_as_much():
    tuned = [metrics(9, 10.0, 1000, (0.25, 20)), metrics(9, 14.0, 1400, (0.25, 20))]
    shown = [metrics(a_query=(0.75, 60), serving=40)]
    found = between("lora", tuned, "8-shot", shown)
    assert (found.tuned, found.shown) == ("lora", "8-shot")
    assert (found.train_seconds, found.seconds_a_query) == (12.0, (0.25, 0.75))
    assert found.queries == 24
    assert found.queries * 0.75 >= 12 + found.queries * 0.25 > (found.queries - 1) * 0.75 + 0.25
    assert (found.train_tokens, found.tokens_a_query) == (1200, (20, 60))
    assert found.queries_by_tokens == 3 * 1200 / (60 - 20)


def test_a_part_of_a_query_is_a_whole_one():
    shown = [metrics(a_query=(1.0, 60), serving=40)]
    assert between("a", [metrics(9, 10.0, 10, (0.7, 20))], "b", shown).queries == 34


@pytest.mark.parametrize("a_query", [(0.75, 60), (0.8, 70)])
def test_what_costs_no_less_a_query_is_never_paid_back(a_query):
    found = between("lora", [metrics(9, 10.0, 1000, a_query)], "8-shot", [metrics(a_query=(0.75, 60), serving=40)])
    assert (found.queries, found.queries_by_tokens) == (None, None)


def test_only_a_trained_arm_beside_one_that_shows_demonstrations_can_break_even():
    tuned, shown, bare = [metrics(9)], [metrics(serving=40)], [metrics()]
    prompted = [metrics(9, serving=20)]
    pairs = [(a, b) for a in (tuned, shown, bare, prompted) for b in (tuned, shown, bare, prompted)]
    assert [pair for pair in pairs if can_break_even(*pair)] == [(tuned, shown), (prompted, shown)]
    old = [{name: value for name, value in metrics(9).items() if name != "seconds_a_query"}]
    assert not can_break_even(old, shown)


@pytest.fixture
def root(tmp_path):
    """An arm that shows demonstrations, one that does not, and two that are trained."""
    arms = {
        "frozen-8": metrics(a_query=(0.004, 300), serving=280, accuracy=90.0),
        "frozen-0": metrics(a_query=(0.001, 20), accuracy=50.0),
        "lora-1": metrics(9, 12.0, 20_000, (0.001, 20), accuracy=70.0),
        "bitfit-1": metrics(9, 12.0, 20_000, (0.005, 20), accuracy=60.0),
    }
    for name, found in arms.items():
        folder = tmp_path / "task" / name / "seed0"
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps({**found, "proofs": {}}))
        (folder / "recipe.yaml").write_text(f"method: {{name: {name}}}\n")
        (folder / "DONE").touch()
    return tmp_path


def test_a_comparison_has_every_such_pair(root):
    names = ("frozen-8", "frozen-0", "lora-1", "bitfit-1")
    arms = {name: [json.loads((root / "task" / name / "seed0" / "metrics.json").read_text())] for name in names}
    found = break_even_of({**arms, "lost": []})
    assert [(each["tuned"], each["shown"], each["queries"]) for each in found] == [
        ("lora-1", "frozen-8", 4000), ("bitfit-1", "frozen-8", None),
    ]  # fmt: skip
    assert [each["queries_by_tokens"] for each in found] == [215, 215]
    assert found[0]["seconds_a_query"] == [0.001, 0.004]
    assert json.loads(json.dumps(found)) == found


def test_the_decision_says_when_the_best_trained_arm_is_paid_back(root):
    arms = gather_arms(read_runs(root))
    told = decide(arms)
    assert told.pick.label == "frozen-8"
    assert told.reason.endswith(
        "Beside frozen-8, the training of lora-1 (12 s) is paid back after about 4,000 queries, at 1 against 4 ms a "
        "query as measured here, where the demonstrations are read once for all; after about 220 queries where each "
        "query reads 300 tokens instead of 20."
    )
    (sentence,) = paid_back(arms, next(arm for arm in arms if arm.label == "bitfit-1"))
    assert "the training of bitfit-1 (12 s) is paid back by no number of queries, at 5 against 4 ms" in sentence
    assert paid_back([arm for arm in arms if arm.label != "frozen-8"], told.pick) == []
