"""What is searched, how trials are halved, and that test stays closed until dev has chosen."""

import json
import os
import signal

import pytest

from tests.alike import alike
from tests.comparison.test_grid import Followed
from tests.small_base import write_base, write_reviews
from tunewise.comparison import compare, grid
from tunewise.comparison.search import points, search
from tunewise.config import read_yaml
from tunewise.errors import UserError
from tunewise.methods import METHODS
from tunewise.report.arms import read_arms
from tunewise.run import build_recipe
from tunewise.training.interrupt import Interrupted
from tunewise.training.lane import Diverged

RATE = "train.learning_rate"


def recipe(method="lora", **fields):
    return build_recipe({"data": "tiny:sentiment", "method": method, **fields})


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_space_of_valid_points(name):
    found = points(recipe(name), 16)
    assert len(found) >= 4
    assert len({json.dumps(point) for point in found}) == len(found)
    for point in found:
        built = build_recipe(recipe(name).model_dump(mode="json"), point)
        for path, value in point.items():
            section, field = path.split(".")
            assert built.model_dump()[section][field] == value
    rates = [point[RATE] for point in found if RATE in point]
    own = METHODS[name].learning_rate
    assert rates[:8] == [factor * own for factor in METHODS[name].rate_factors][: len(rates)]
    assert len({*METHODS[name].rate_factors}) == 8
    assert METHODS[name].rate_factors[0] == 1
    defaults = {f"method.{field}": info.default for field, info in METHODS[name].model_fields.items()}
    assert all(defaults[path] == value for path, value in found[0].items() if path != RATE), "its own values come first"


def test_the_learning_rate_moves_first_and_what_is_stated_stays():
    found = points(recipe(), 10)
    assert [point["method.rank"] for point in found] == [8] * 8 + [32] * 2
    assert [list(point) for point in found] == [[RATE, "method.rank"]] * 10
    assert {*points(recipe(train={"learning_rate": 1e-3}), 4)[1]} == {"method.rank"}
    assert {*points(recipe(train={"learning_rate": None}), 4)[1]} == {RATE, "method.rank"}
    assert {*points(recipe({"name": "lora", "r": 4}), 4)[1]} == {RATE}
    assert points(recipe({"name": "lora", "r": 4}, train={"learning_rate": 1e-3}), 4) == [{}]
    assert points(recipe("frozen"), 8) == [{"method.shots": shots} for shots in (0, 4, 8, 16)]
    assert points(recipe({"name": "frozen", "shots": 2}), 8) == [{}]
    assert points(recipe("frozen"), 8, writes=False) == [{}]


def climbing(scores, asked):
    """An `advance` whose trials score what `scores` says of (learning rate, share)."""
    rungs = {}

    def advance(names, recipes, folders, share):
        asked.append((share, [each.train.learning_rate for each in recipes]))
        outcomes = []
        for each, folder in zip(recipes, folders, strict=True):
            score = scores(each.train.learning_rate, share)
            at_end = share == 1
            told = {"dev": score if at_end else None, "loss": None if score is None else (100 - score) / 100}
            rung = {"share": share, "step": round(100 * share), **told, "seconds": 1.0}
            rungs[folder] = [*rungs.get(folder, []), rung]
            outcomes.append(Diverged("nan") if score is None else {"rungs": rungs[folder], "n_steps": 100})
        return outcomes

    return advance


def test_the_better_half_goes_on_and_the_best_at_the_end_is_chosen(tmp_path):
    first = {"a": recipe()}
    candidates = {"a": [{RATE: rate} for rate in (1e-4, 1e-3, 1e-2, 1e-1)]}
    asked = []
    # the third leads at the first rung, and the second at the end
    scores = {(1e-3, 0.25): 70, (1e-2, 0.25): 80, (1e-3, 1.0): 90, (1e-2, 1.0): 85}
    found = search(first, candidates, tmp_path, climbing(lambda rate, share: scores.get((rate, share), 60), asked))
    assert asked == [(0.25, [1e-4, 1e-3, 1e-2, 1e-1]), (1.0, [1e-2, 1e-3])]
    told = found["a"].told()
    assert told["values"] == {RATE: 1e-3}
    assert [trial["chosen"] for trial in told["trials"]] == [False, True, False, False]
    assert [[rung["dev"] for rung in trial["rungs"]] for trial in told["trials"]] == [
        [None],
        [None, 90],
        [None, 85],
        [None],
    ]
    assert told["seconds"] == 6.0, "four trials to the first rung, and two to the next"
    assert told["at_edge"] == ""


def test_arms_climb_together_and_those_that_diverge_are_out(tmp_path):
    first = {"a": recipe(), "b": recipe("bitfit"), "stated": recipe("ia3")}
    rates = [1e-4, 1e-3, 1e-2, 1e-1]
    candidates = {"a": [{RATE: rate} for rate in rates], "b": [{RATE: rate} for rate in rates], "stated": [{}]}
    asked = []

    def scores(rate, share):
        return None if rate >= 1e-2 else 50.0

    found = search(first, candidates, tmp_path, climbing(scores, asked))
    assert [len(of_rung) for _, of_rung in asked] == [8, 4]
    assert found["a"].told()["values"] == {RATE: 1e-4}, "of equals the earlier"
    assert found["a"].at_edge == "lowest"
    assert [bool(trial["diverged"]) for trial in found["b"].told()["trials"]] == [False, False, True, True]
    assert found["stated"].told()["values"] == {}
    lost = search({"a": recipe()}, {"a": candidates["a"]}, tmp_path, climbing(lambda *_: None, []))
    assert lost["a"].told()["values"] == {RATE: 1e-4}


def test_an_arm_of_fewer_trials_is_told_apart_at_the_end_too(tmp_path):
    """Four stated points beside eight: by the metric at the end, not by the loss at half of the way."""
    rates = [10.0**-power for power in range(8)]
    candidates = {"eight": [{RATE: rate} for rate in rates], "four": [{RATE: rate} for rate in rates[:4]], "one": [{}]}
    asked = []

    def scores(rate, share):
        return 100 - rate if share == 1 else 50 + rate

    found = search(
        {"eight": recipe(), "four": recipe("ia3"), "one": recipe("full")}, candidates, tmp_path, climbing(scores, asked)
    )
    assert [(share, len(of_rung)) for share, of_rung in asked] == [(0.25, 8), (0.5, 4 + 4), (1.0, 2 + 2)]
    for label in ("eight", "four"):
        told = found[label].told()
        assert sum(trial["rungs"][-1]["share"] == 1 for trial in told["trials"]) == 2
        assert told["values"] == {RATE: 0.1}, "the better of the last two by the metric"


@pytest.fixture(scope="module", autouse=True)
def without_reloads():
    """The reload of adapters in a fresh process takes seconds, and is tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid, "add_reload_proof", lambda *_: [])
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    return str(write_base(folder / "base")), {"path": str(write_reviews(folder / "reviews.csv")), "train": 16}


def searched(place, out, progress=None, methods=("frozen", "lora"), workers=1):
    model, data = place
    quick = {"train.steps": 8, "train.batch_size": 8, "dtype": "float32", "retention": None, "trials": 4}
    return compare(
        data, model=model, methods=methods, seeds=(0, 1), out=out, progress=progress, overrides=quick, workers=workers
    )


@pytest.fixture(scope="module")
def done(place, tmp_path_factory):
    out = tmp_path_factory.mktemp("done")
    return out, searched(place, out)


def test_no_trial_has_seen_test_and_every_run_is_that_of_the_chosen_point(done):
    root, found = done
    trials = sorted((root / "trials").rglob("trial.json"))
    assert len(trials) == 8
    for path in trials:
        names = {each.name for each in path.parent.iterdir()}
        assert not names & {"predictions.jsonl", "metrics.json", "adapter", "DONE", "checkpoints"}, names
    assert len(list(root.rglob("predictions.jsonl"))) == 4
    for arm in found["arms"]:
        assert len(arm["search"]["trials"]) == 4
        for seed in (0, 1):
            written = read_yaml(root / arm["folder"] / f"seed{seed}" / "recipe.yaml")
            for path, value in arm["search"]["values"].items():
                section, field = path.split(".")
                assert written[section][field] == value
    lora = found["arms"][1]["search"]
    assert sorted(len(trial["rungs"]) for trial in lora["trials"]) == [1, 1, 2, 2]
    assert [rung["step"] for rung in max(lora["trials"], key=lambda trial: len(trial["rungs"]))["rungs"]] == [2, 8]
    assert lora["seconds"] > 0
    # what trains nothing is scored once
    frozen = found["arms"][0]["search"]
    assert {(len(trial["rungs"]), trial["rungs"][0]["step"]) for trial in frozen["trials"]} == {(1, 0)}


def test_a_trial_is_the_chosen_run_on_its_way(done):
    root, found = done
    folder = found["arms"][1]["folder"]
    trial, run = (
        [json.loads(line) for line in (place / folder / "seed0" / "log.jsonl").read_text().splitlines()]
        for place in (root / "trials", root)
    )
    steps = [[(line["loss"], line["learning_rate"]) for line in log if "loss" in line] for log in (trial, run)]
    assert len(steps[0]) == len(steps[1]) == 8
    assert [rate for _, rate in steps[0]] == [rate for _, rate in steps[1]]
    assert [loss for loss, _ in steps[0]] == pytest.approx([loss for loss, _ in steps[1]], abs=1e-5)
    rungs = next(trial["rungs"] for trial in found["arms"][1]["search"]["trials"] if trial["chosen"])
    assert [rung["dev"] is None for rung in rungs] == [True, False]
    assert rungs[0]["loss"] > rungs[1]["loss"] > 0
    looks = [line["dev"] for line in run if "dev" in line and line["step"] == 8]
    assert [rungs[-1]["dev"]] == looks, "what the run itself scores there"


def test_a_search_that_is_done_costs_nothing(done, place):
    root, found = done
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*.json*") if path.name != "comparison.json"}
    assert searched(place, root) == found
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert {path for path in root.rglob("*.json*") if path.name != "comparison.json"} == set(before)


class Killed(BaseException):
    """What no code can answer, as when the process is gone."""


def _interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def _die():
    raise Killed


@pytest.mark.parametrize(("how", "error"), [(_interrupt, Interrupted), (_die, Killed)], ids=["Ctrl-C", "killed"])
def test_a_search_that_was_stopped_goes_on_to_the_same_choice(how, error, done, place, tmp_path):
    """At the last rung: the first is not carried out again, and the second goes on from its checkpoints."""

    class Stopping(Followed):
        stopped = False

        def stepped(self, step, loss, n_tokens):
            trials = [json.loads(path.read_text()) for path in tmp_path.rglob("trial.json")]
            if not self.stopped and sum(bool(trial["n_steps"]) for trial in trials) == 4:
                self.stopped = True
                how()

    with pytest.raises(error):
        searched(place, tmp_path, Stopping())
    first = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("trial.json")}
    steps = [int(path.name.removeprefix("step-")) for path in tmp_path.rglob("checkpoints/step-*")]
    assert len(first) == 8
    assert len(steps) == 2
    assert all(2 <= step < 8 for step in steps)
    found = searched(place, tmp_path)
    again = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("trial.json")}
    assert sum(again[path] != first[path] for path in first) == 2, "those of the last rung"
    want = done[1]
    for one, other in zip(found["arms"], want["arms"], strict=True):
        assert one["search"]["values"] == other["search"]["values"]
        scores = [
            [[rung["dev"] for rung in trial["rungs"]] for trial in each["search"]["trials"]] for each in (one, other)
        ]
        assert scores[0] == scores[1]
    assert alike([row["test"] for row in found["rows"]], [row["test"] for row in want["rows"]])


@pytest.mark.slow
def test_workers_side_by_side_choose_what_one_process_chooses(done, place, tmp_path):
    found = searched(place, tmp_path, methods=("lora",), workers=2)
    one, other = (arm["search"] for arm in (found["arms"][0], done[1]["arms"][1]))
    assert one["values"] == other["values"]
    for trial, want in zip(one["trials"], other["trials"], strict=True):
        assert [rung["loss"] for rung in trial["rungs"]] == pytest.approx(
            [rung["loss"] for rung in want["rungs"]], 1e-4
        )


def test_arms_whose_trials_and_winners_are_the_same_share_them(place, tmp_path):
    """What one arm states is what the search of the other begins with: carried out once, told of both."""
    model, data = place
    arms = {"searched": "lora", "stated": {"method": {"name": "lora", "rank": 8}}}
    quick = {"train.steps": 4, "train.batch_size": 8, "dtype": "float32", "retention": None, "trials": 2}
    found = compare(data, model=model, methods=arms, seeds=(0, 1), out=tmp_path, overrides=quick)
    assert len(list(tmp_path.rglob("trial.json"))) == 2
    assert len(list(tmp_path.rglob("DONE"))) == 2
    one, other = found["arms"]
    assert one["folder"] == other["folder"]
    (pair,) = found["verdict"]["pairs"]
    assert (pair["gap"]["mean"], pair["p"]) == (0, 1)
    assert [(arm.label, arm.seeds) for arm in read_arms(tmp_path)] == [("searched", (0, 1)), ("stated", (0, 1))]


def test_data_without_dev_rows_or_with_other_rows_is_refused(place, done, tmp_path):
    folder = tmp_path / "task"
    folder.mkdir()
    rows = [{"text": f"it was {'good' if i % 2 else 'bad'} {i}", "label": str(i % 2)} for i in range(20)]
    for name in ("train", "test"):
        (folder / f"{name}.jsonl").write_text(
            "".join(json.dumps(row | {"text": name + row["text"]}) + "\n" for row in rows)
        )
    lines = ["name: task", "kind: classification", 'prompt: "{text}"', 'answer: " {label}"', 'labels: ["0", "1"]']
    (folder / "task.yaml").write_text("\n".join([*lines, "metrics: [accuracy]"]))
    with pytest.raises(UserError, match=r"task has no dev rows(.|\n)*trials=1"):
        searched((place[0], str(folder)), tmp_path / "runs", methods=("lora",))
    assert not list(tmp_path.rglob("trial.json"))
