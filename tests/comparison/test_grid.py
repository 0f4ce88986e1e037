import json
import os
import shutil
import signal

import pytest

from tests.alike import alike
from tests.small_base import QUICK, write_base, write_reviews
from tunewise.comparison import compare
from tunewise.comparison.outcome import in_words
from tunewise.comparison.protocol import arms_of
from tunewise.comparison.tables import rows_of
from tunewise.config import read_yaml
from tunewise.errors import UserError
from tunewise.methods import parse_method
from tunewise.stats import mean_interval, welch
from tunewise.training.interrupt import Interrupted
from tunewise.training.progress import Silent


class Followed(Silent):
    """Hears of every run when it ends: its label, and what came of it."""

    def __init__(self):
        self.told, self.begun = [], []

    def planned(self, runs, n_workers):
        self.runs, self.n_workers = runs, n_workers

    def begins(self, numbers):
        self.begun.append(tuple(numbers))
        return self

    def puts_off(self, numbers):
        pass

    def ends(self, number, outcome):
        self.told += [self.runs[number].label, in_words(outcome)]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    place = tmp_path_factory.mktemp("compare")
    watcher = Followed()
    arms = {
        "2-shot": {"method": {"name": "frozen", "shots": 2}},
        "lora": {"method": "lora"},
        "lora, slow": {"method": "lora", "train": {"learning_rate": 1e-4}},
    }
    fields = {"model": str(write_base(place / "base")), "methods": arms, "seeds": (0, 1), "out": place / "runs"}
    quick = {name: value for name, value in QUICK.items() if name != "train.learning_rate" and name != "train.steps"}
    data = {"path": str(write_reviews(place / "reviews.csv")), "train": 16}
    found = compare(data, **fields, overrides=quick | {"dtype": "float32"}, progress=watcher)
    return place / "runs", found, watcher, lambda: compare(data, **fields, overrides=quick | {"dtype": "float32"})


def test_arms_on_two_states_of_a_base_are_not_compared(tmp_path):
    data, model = str(write_reviews(tmp_path / "reviews.csv")), str(write_base(tmp_path / "base"))
    fields = {"model": model, "seeds": (0,), "out": tmp_path / "runs", "overrides": {"dtype": "float32"}}
    asked = [{"name": "frozen"}, {"name": "frozen", "shots": 2}]
    compare(data, methods=asked[:1], **fields)
    write_base(tmp_path / "base", seed=1)
    with pytest.raises(UserError, match=r"the base .* has changed since .*seed0 was made"):
        compare(data, methods=asked, **fields)


@pytest.mark.usefixtures("without_a_fresh_process")
def test_trials_on_another_state_of_a_base_choose_nothing(tmp_path):
    data, model = str(write_reviews(tmp_path / "reviews.csv")), str(write_base(tmp_path / "base"))
    fields = {"model": model, "seeds": (0,), "out": tmp_path / "runs"}
    quick = {"dtype": "float32", "trials": 2, "train.steps": 2, "retention": None}
    compare(data, methods=["ia3"], overrides=quick, **fields)
    for run in [*(tmp_path / "runs").rglob("DONE")]:
        shutil.rmtree(run.parent)
    write_base(tmp_path / "base", seed=1)
    with pytest.raises(UserError, match=r"the base .* has changed since .*trials.* was made"):
        compare(data, methods=["ia3"], overrides=quick, **fields)


def test_a_set_from_elsewhere_that_some_arms_are_asked_alone_has_no_verdict(tmp_path):
    data, model = str(write_reviews(tmp_path / "reviews.csv")), str(write_base(tmp_path / "base"))
    both, other = ({name: {"path": str(write_reviews(tmp_path / f"{name}.csv", 12))} for name in "pq"}, {})
    other["q"] = both["q"]
    arms = {
        "asked": {"method": "frozen", "out_of_domain": both},
        "shown": {"method": {"name": "frozen", "shots": 2}, "out_of_domain": other},
    }
    found = compare(
        data, model=model, methods=arms, seeds=(0,), out=tmp_path / "runs",
        overrides={"dtype": "float32", "against": "asked", "allow_unlike": ["out_of_domain"]},
    )  # fmt: skip
    assert list(found["elsewhere"]) == ["q"]


def test_a_run_is_held_against_the_base_that_is_loaded(tmp_path, monkeypatch):
    """As of a name on the hub, of which no file tells when it was written."""
    monkeypatch.setattr("tunewise.comparison.stage.base_is_newer", lambda *_: False)
    monkeypatch.setattr("tunewise.run.record.base_is_newer", lambda *_: False)
    test_arms_on_two_states_of_a_base_are_not_compared(tmp_path)


def test_every_arm_has_a_folder_of_runs_by_seed(compared):
    root, found, watcher, _ = compared
    assert len(list(root.rglob("DONE"))) == 6
    assert [arm["label"] for arm in found["arms"]] == ["2-shot", "lora", "lora, slow"]
    for arm in found["arms"]:
        assert [(root / arm["folder"] / f"seed{seed}" / "DONE").exists() for seed in (0, 1)] == [True, True]
    together = [f"{label} seed {seed}" for seed in (0, 1) for label in ("lora", "lora, slow")]
    assert watcher.told[::2] == ["2-shot seed 0", *together, "2-shot seed 1"]
    assert all(told.startswith("accuracy ") for told in watcher.told[1::2])
    assert json.loads((root / "comparison.json").read_text()) == found


def test_the_verdict_tests_each_pair_by_seeds_and_by_items(compared):
    root, found, _, _ = compared
    told = found["verdict"]
    assert told["metric"] == "accuracy"
    assert {told["best"], *told["equal"], *told["open"], *told["worse"]} == {"2-shot", "lora", "lora, slow"}
    assert told["pick"] in {told["best"], *told["equal"]}
    scores = {
        arm["label"]: [
            json.loads((root / arm["folder"] / f"seed{seed}" / "metrics.json").read_text())["test"]["accuracy"]
            for seed in (0, 1)
        ]
        for arm in found["arms"]
    }
    assert len(told["pairs"]) == 3
    for pair in told["pairs"]:
        first, second = scores[pair["first"]], scores[pair["second"]]
        assert pair["p"] == welch(first, second).p
        # the test's accuracy is that of the items
        assert pair["gap"]["mean"] == pytest.approx(sum(first) / 2 - sum(second) / 2)
        assert pair["items"]["gap"] == pytest.approx(pair["gap"]["mean"])
    assert set(told["pareto"]) == {"bytes", "seconds", "memory", "forgetting", "serving_tokens"}
    assert "2-shot" in told["pareto"]["bytes"]  # nothing is smaller than nothing


@pytest.mark.usefixtures("without_a_fresh_process")
def test_runs_that_share_a_batch_end_as_one_by_one(compared, tmp_path):
    root, found, _, _ = compared
    recipe = read_yaml(next(root.rglob("lora-*/seed0/recipe.yaml")))
    arms = {"lora": {"method": "lora"}, "lora, slow": {"method": "lora", "train": {"learning_rate": 1e-4}}}
    alone = compare(
        recipe["data"], model=recipe["model"], methods=arms, seeds=(0, 1), out=tmp_path,
        overrides={"train.batch_size": 8, "train.lanes": False, "dtype": "float32"},
    )  # fmt: skip
    assert alike([row["test"] for row in alone["rows"]], [row["test"] for row in found["rows"][1:]])
    for arm, other in zip(alone["arms"], found["arms"][1:], strict=True):
        for seed in ("seed0", "seed1"):
            one, lane = (
                json.loads((place / folder / seed / "metrics.json").read_text())
                for place, folder in ((tmp_path, arm["folder"]), (root, other["folder"]))
            )
            assert (one["lanes"], lane["lanes"]) == (1, 4)
            assert lane["peak_measure"].endswith(", of 4 lanes")
            for name in ("loss_first", "loss_last"):
                assert lane[name] == pytest.approx(one[name], abs=1e-5)
            same = (
                "test",
                "dev",
                "steps",
                "best_step",
                "stopped_by",
                "tokens",
                "n_trainable",
                "layout",
                "adapter_bytes",
            )
            assert alike({name: lane[name] for name in same}, {name: one[name] for name in same})
            assert lane["proofs"].keys() == one["proofs"].keys()
            assert lane["seconds"] > lane["train_seconds"] > 0


@pytest.mark.usefixtures("without_a_fresh_process")
def test_runs_that_were_stopped_side_by_side_go_on(compared, tmp_path):
    """Ctrl-C in a shared batch leaves a checkpoint of each; the same command ends as if nothing had been."""
    root, found, _, _ = compared
    recipe = read_yaml(next(root.rglob("lora-*/seed0/recipe.yaml")))

    class Stopping(Followed):
        def stepped(self, step, loss, n_tokens):
            if step == 7:  # of all four
                os.kill(os.getpid(), signal.SIGINT)

    def again(progress):
        arms = {"lora": {"method": "lora"}, "ia3": {"method": "ia3"}}
        return compare(
            recipe["data"], model=recipe["model"], methods=arms, seeds=(0, 1), out=tmp_path, progress=progress,
            overrides={"train.batch_size": 8, "dtype": "float32"},
        )  # fmt: skip

    with pytest.raises(Interrupted, match="and 3 more"):
        again(Stopping())
    assert len(list(tmp_path.rglob("checkpoints/step-*"))) == 4
    assert not list(tmp_path.rglob("DONE"))
    rows = again(Followed())["rows"]
    assert alike(rows[0]["test"], found["rows"][1]["test"])
    metrics = [json.loads(path.read_text()) for path in tmp_path.rglob("metrics.json")]
    assert sorted(run["resumed_from"] for run in metrics) == [2, 2, 2, 2]  # all wait there for their scores on dev
    assert not list(tmp_path.rglob("checkpoints"))


def test_adapters_were_reloaded_in_a_fresh_process(compared):
    root, found, _, _ = compared
    proved = [json.loads(path.read_text())["proofs"] for path in sorted(root.rglob("lora-*/seed*/metrics.json"))]
    assert len(proved) == 4
    assert all(proofs["reloads_to_the_same_logits"]["passed"] for proofs in proved)
    assert [row["failed_proofs"] for row in found["rows"]] == [[], [], []]


def test_rows_are_means_over_seeds(compared):
    root, found, _, _ = compared
    for arm, row in zip(found["arms"], found["rows"], strict=True):
        runs = [json.loads((root / arm["folder"] / f"seed{seed}" / "metrics.json").read_text()) for seed in (0, 1)]
        interval = mean_interval([run["test"]["accuracy"] for run in runs])
        assert row["test"]["accuracy"] == {"mean": interval.mean, "half_width": interval.half_width, "n": 2}
        assert row["seconds"] == pytest.approx(sum(run["seconds"] for run in runs) / 2)
        assert row["peak_bytes"] == max(run["peak_bytes"] for run in runs)
        assert row["forgetting"] is None
    steps = [
        json.loads((root / arm["folder"] / "seed0" / "metrics.json").read_text())["steps"] for arm in found["arms"]
    ]
    assert steps == [0, 6, 6]


def test_a_comparison_that_is_done_costs_nothing(compared):
    root, found, _, again = compared
    before = {path: path.stat().st_mtime_ns for path in root.rglob("metrics.json")}
    assert again() == found
    assert {path: path.stat().st_mtime_ns for path in root.rglob("metrics.json")} == before


def test_arms_by_name_fields_or_method():
    arms = arms_of(["lora", {"name": "lora", "rank": 4}, parse_method("bitfit")])
    assert list(arms)[:2] == ["lora", "lora (rank=4)"]
    assert list(arms)[2].startswith("bitfit")
    with pytest.raises(UserError, match="there twice"):
        arms_of(["lora", "lora"])
    with pytest.raises(UserError, match="no methods"):
        arms_of([])
    with pytest.raises(UserError, match="no seeds"):
        compare("tiny:sentiment", seeds=())


def test_one_seed_has_a_mean_and_no_interval(tmp_path):
    content = {
        "method": "lora", "test": {"accuracy": 80.0}, "retention": {"change": 0.25}, "n_trainable": 8,
        "adapter_bytes": 9, "seconds": 1.0, "train_seconds": 0.5, "peak_bytes": 7, "tokens_per_second": 3.0,
        "proofs": {"has_an_effect": {"passed": False}, "base_unchanged": {"passed": True}},
    }  # fmt: skip
    (tmp_path / "metrics.json").write_text(json.dumps(content))
    (row,) = rows_of({"lora": [tmp_path]})
    assert row["test"]["accuracy"] == {"mean": 80.0, "half_width": None, "n": 1}
    assert row["forgetting"]["mean"] == 0.25
    assert row["failed_proofs"] == ["has_an_effect"]


def test_workers_side_by_side_find_what_one_process_finds(compared, tmp_path):
    """Two groups of three that share their batches, in each of which one diverges, and runs that train nothing."""
    root, found, _, _ = compared
    watcher = Followed()
    slow, hot = ({"method": "lora", "train": {"learning_rate": rate}} for rate in (1e-4, 1e38))
    arms = {"2-shot": {"method": {"name": "frozen", "shots": 2}}, "hot": hot, "lora": {"method": "lora"}}
    recipe = read_yaml(next(root.rglob("lora-*/seed0/recipe.yaml")))
    again = compare(
        recipe["data"], model=recipe["model"], methods=arms | {"lora, slow": slow}, seeds=(0, 1), out=tmp_path,
        workers=2, progress=watcher, overrides={"train.batch_size": 8, "dtype": "float32"},
    )  # fmt: skip
    shown, *trained = (row["test"] for row in found["rows"])
    assert alike([row["test"] for row in again["rows"]], [shown, {}, *trained])
    labels = [f"{label} seed {seed}" for label in ("2-shot", "hot", "lora", "lora, slow") for seed in (0, 1)]
    assert sorted(watcher.told[::2]) == labels
    assert [[each["seed"] for each in arm["failed"]] for arm in again["arms"]] == [[], [0, 1], [], []]
    assert [row["failed_proofs"] for row in again["rows"]] == [[], [], [], []]
    runs = [json.loads(path.read_text()) for path in tmp_path.rglob("metrics.json")]
    assert sorted(run["lanes"] for run in runs) == [1, 1, 3, 3, 3, 3]
    assert sum("reloads_to_the_same_logits" in run["proofs"] for run in runs) == 4


@pytest.mark.usefixtures("without_a_fresh_process")
@pytest.mark.parametrize("how", [{}, {"train.lanes": False}], ids=["lanes", "one by one"])
def test_runs_that_diverge_are_named_and_the_others_go_on(how, compared, tmp_path):
    root, found, _, _ = compared
    recipe = read_yaml(next(root.rglob("lora-*/seed0/recipe.yaml")))
    watcher, hot = Followed(), {"method": "lora", "train": {"learning_rate": 1e38}}
    arms = {"hot": hot, "lora": {"method": "lora"}}
    quick = {"train.batch_size": 8, "dtype": "float32", "retention": None}
    again = compare(
        recipe["data"], model=recipe["model"], methods=arms, seeds=(0, 1), out=tmp_path, overrides=quick | how,
        progress=watcher,
    )  # fmt: skip
    lost, lora = again["arms"]
    assert (lost["seeds"], lora["seeds"], lora["failed"]) == ([], [0, 1], [])
    assert [each["seed"] for each in lost["failed"]] == [0, 1]
    assert all("is not finite at step 2 of 6" in each["reason"] for each in lost["failed"])
    assert again["rows"][0]["test"] == {}
    assert alike(again["rows"][1]["test"], found["rows"][1]["test"])
    assert again["rows"][1]["failed_proofs"] == []
    told = dict(zip(watcher.told[::2], watcher.told[1::2], strict=True))
    assert told["hot seed 1"].startswith("diverged: ")
    assert told["lora seed 1"].startswith("accuracy ")
    assert json.loads((tmp_path / "comparison.json").read_text()) == again
    with pytest.raises(UserError, match="every run diverged; hot seed 0: the "):
        compare(
            recipe["data"], model=recipe["model"], methods={"hot": hot}, seeds=(0,), out=tmp_path / "x", overrides=quick
        )
