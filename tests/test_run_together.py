"""Runs side by side where they cannot share a batch after all, or one of them is lost: the others end as alone."""

import json
import logging

import pytest

from tests.alike import alike
from tests.small_base import QUICK, write_place_with_texts
from tunewise.engine.native.build import library, why_not
from tunewise.evaluation.asks import Documents, Likelihoods, Texts
from tunewise.evaluation.by_lane import ByLane
from tunewise.models.load import load_base
from tunewise.run import build_recipe, run, run_together
from tunewise.training.lane import Diverged

HOT = {"train.learning_rate": 1e38}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return write_place_with_texts(tmp_path_factory.mktemp("place"), 20, 24)


@pytest.fixture(scope="module")
def base(place):
    return load_base(str(place / "base"), "float32")


def recipe(place, seed, **overrides):
    given = {"model": str(place / "base"), "data": str(place / "reviews.csv"), "dtype": "float32", "method": "lora"}
    return build_recipe(given | {"seed": seed}, QUICK | overrides)


@pytest.mark.skipif(library() is None, reason=f"no kernels here: {why_not()}")
def test_runs_whose_trial_refuses_are_trained_one_by_one(place, base, tmp_path, caplog):
    """One is padded and two are packed; one of these diverges, in the middle; each of the others is as it is alone."""
    asked = [recipe(place, 0), recipe(place, 1, **HOT), recipe(place, 2, **{"train.packing": False})]
    folders = [tmp_path / name for name in ("packed", "lost", "padded")]
    with caplog.at_level(logging.INFO, "tunewise"):
        packed, lost, padded = run_together(asked, folders, base)
    assert "one by one: their batches are packed and padded" in caplog.messages
    assert isinstance(lost, Diverged)
    assert "is not finite at step 2 of 6" in lost.message
    assert [(folder / "DONE").exists() for folder in folders] == [True, False, True]
    for metrics, of, folder in ((packed, asked[0], folders[0]), (padded, asked[2], folders[2])):
        alone = run(of, tmp_path / f"{folder.name} alone", base=base, prove=False)
        same = ("test", "dev", "loss_first", "loss_last", "lanes", "layout", "tokens", "best_step", "proofs")
        assert {name: metrics[name] for name in same} == {name: alone[name] for name in same}
        assert json.loads((folder / "metrics.json").read_text()) == metrics
        adapters = [
            (each / "adapter" / "adapter_model.safetensors").read_bytes() for each in (folder, alone_of(folder))
        ]
        assert adapters[0] == adapters[1]


def alone_of(folder):
    return folder.with_name(f"{folder.name} alone")


def test_a_lane_that_is_lost_keeps_no_other_from_its_end(place, base, tmp_path):
    asked = [recipe(place, 0, **HOT), recipe(place, 1)]
    lost, metrics = run_together(asked, [tmp_path / "lost", tmp_path / "kept"], base)
    assert isinstance(lost, Diverged)
    assert not (tmp_path / "lost" / "metrics.json").exists()
    assert metrics["lanes"] == 2
    alone = run(asked[1], tmp_path / "alone", base=base, prove=False)
    assert alike(metrics["test"], alone["test"])
    assert metrics["loss_last"] == pytest.approx(alone["loss_last"], abs=1e-5)


MIXED = ["lora", "lora", {"name": "bottleneck", "bottleneck": 4}, {"name": "prompt_tuning", "virtual_tokens": 3}]


@pytest.mark.parametrize("data", ["reviews.csv", "counts.jsonl"])
def test_runs_side_by_side_are_asked_at_once(data, place, base, tmp_path, monkeypatch):
    """On the way, where one ends by patience, and at the end; each is told what it is told alone."""
    fields = {"train.evaluate_every": 0.3, "train.learning_rate": 3e-3}
    asked = [
        build_recipe(
            {
                "model": str(place / "base"),
                "data": str(place / data),
                "dtype": "float32",
                "method": method,
                "retention": str(place / "texts.jsonl"),
                "seed": seed,
            },
            QUICK | fields | {"train.patience": 1 if seed % 2 else None},
        )
        for seed, method in enumerate(MIXED)
    ]
    seen = []
    answers_to = ByLane._answers_to
    monkeypatch.setattr(
        ByLane, "_answers_to", lambda self, of: seen.append((type(of[min(of)]), len(of))) or answers_to(self, of)
    )
    folders = [tmp_path / str(number) for number in range(len(asked))]
    found = run_together(asked, folders, base)
    on_dev = Likelihoods if data == "reviews.csv" else Texts
    assert seen.count((on_dev, 4)) == 3, "twice on the way, and what is asked at the end"
    assert (Documents, 4) in seen
    steps = set()
    for metrics, recipe_of, folder in zip(found, asked, folders, strict=True):
        alone = run(recipe_of, tmp_path / f"{folder.name} alone", base=base, prove=False)
        same = ("test", "dev", "retention", "best_step", "steps", "stopped_by", "proofs", "prompt_tokens")
        assert alike({name: metrics[name] for name in same}, {name: alone[name] for name in same}), folder.name
        rows, expected = (
            [json.loads(line) for line in (each / "predictions.jsonl").read_text().splitlines()]
            for each in (folder, alone_of(folder))
        )
        assert alike(rows, expected)
        assert metrics["seconds_a_query"] > 0
        assert metrics["spent"].keys() == alone["spent"].keys()
        steps.add(metrics["steps"])
    assert len(steps) > 1, "one ended before the others"
