"""What a run keeps of what was planned for it."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.small_base import QUICK, write_place
from tunewise.data.encode import MASKED, Encoded
from tunewise.engine.sources import Sources
from tunewise.models.load import load_base
from tunewise.planning.left_out import RESUMED, SHORT
from tunewise.run import build_recipe, planned, run
from tunewise.run.trained_on import TrainedOn, trained_on


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return write_place(tmp_path_factory.mktemp("place"))


def recipe_of(place, **fields):
    told = {"model": str(place / "base"), "data": str(place / "reviews.csv"), "method": "lora", "dtype": "float32"}
    return build_recipe(told, {**QUICK, **fields})


def carried_out(place, out, **fields):
    return run(recipe_of(place, **fields), out, prove=False)


def test_a_short_run_keeps_what_it_trained_on(place, tmp_path):
    metrics = carried_out(place, tmp_path / "run")
    told = metrics["planned"]
    assert told["left_out"] == SHORT
    assert (told["n_trainable"], told["adapter_bytes"]) == (metrics["n_trainable"], 4 * metrics["n_trainable"])
    trained = TrainedOn.read(json.loads(json.dumps(told["trained_on"])))
    assert (trained.longest.rows, trained.n_rows) == (8, 48)
    assert trained.n_rows * trained.mean_tokens == pytest.approx(metrics["tokens"], rel=0.02)
    assert trained.as_data() == told["trained_on"]
    assert metrics["train_memory_bytes"] > 4 * 37_792


def test_a_long_run_is_planned(place, tmp_path, monkeypatch):
    monkeypatch.setattr(planned, "LEAST_SECONDS", 0.0)
    told = carried_out(place, tmp_path / "run")["planned"]
    assert told["left_out"] == ""
    assert told["train_memory_bytes"] > 4 * 37_792
    assert 0 < told["train_seconds"] < 60


def test_what_leaves_the_frozen_layers_is_planned_where_the_run_itself_computed_it(place, tmp_path, monkeypatch):
    monkeypatch.setattr(planned, "LEAST_SECONDS", 0.0)
    recipe = recipe_of(place, **{"method": "head", "train.trunk": "cached"})
    base = load_base(str(place / "base"), dtype="float32")
    told = run(recipe, tmp_path / "first", base=base, prove=False)["planned"]
    assert told["left_out"] == ""
    trained = TrainedOn.read(json.loads(json.dumps(told["trained_on"])))
    assert trained.longest.seen is not None
    assert (trained.longest.seen.rows, trained.longest.seen.passes) == (48, 1.0)
    live = carried_out(place, tmp_path / "live", **{"method": "head", "train.trunk": "live"})["planned"]
    assert 0 < told["train_seconds"] < 2 * live["train_seconds"]
    again = run(recipe.model_copy(update={"seed": 1}), tmp_path / "second", base=base, prove=False)["planned"]
    assert again["left_out"] == "what left its 2 frozen layers had been kept by an earlier run"
    assert "train_seconds" not in again


def test_of_a_run_that_goes_on_the_time_is_planned(place, tmp_path, monkeypatch):
    monkeypatch.setattr(planned, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(planned, "_why_not", lambda *told: RESUMED)
    told = carried_out(place, tmp_path / "run")["planned"]
    assert ("train_seconds" in told, "train_memory_bytes" in told) == (True, False)


def test_a_planner_that_fails_loses_no_run(place, tmp_path, monkeypatch):
    monkeypatch.setattr(planned, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(planned, "foretold", lambda *told: 1 / 0)
    metrics = carried_out(place, tmp_path / "run")
    assert metrics["planned"]["left_out"] == "the planner fails on it: ZeroDivisionError: division by zero"
    assert (tmp_path / "run" / "DONE").is_file()


def test_what_trains_nothing_is_not_planned(place, tmp_path):
    metrics = carried_out(place, tmp_path / "run", method="frozen")
    assert (metrics["planned"], metrics["train_memory_bytes"]) == (None, None)


def test_the_longest_batch_is_that_of_the_order_in_which_rows_are_drawn(place):
    base, recipe = load_base(str(place / "base"), dtype="float32"), recipe_of(place)
    rows = [_row(n) for n in (5, 9, 7, 30, 6, 8, 11, 10, 12, 4)]
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"batch_size": 3, "steps": 3})})
    sources = Sources({"": len(rows)})
    batches = sources.batches(3, recipe.seed, 0)[:3]
    found = trained_on(base, recipe, rows, sources)
    most = max(sum(len(rows[number].ids) for number in batch) for batch in batches)
    assert found.longest.tokens == round(most / 3)
    assert found.mean_tokens == pytest.approx(np.mean([len(rows[n].ids) for b in batches for n in b]), abs=0.01)
    assert found.longest.labels == 2
    assert replace(found.longest, rows=1).dtype == base.dtype


def _row(n: int):
    return Encoded(str(n), tuple(range(3, 3 + n)), (MASKED,) * (n - 2) + (4, 5), n - 2, truncated=False)
