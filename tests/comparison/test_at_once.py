"""How many runs go side by side where nobody says."""

import os

import pytest
import torch

from tests.small_base import write_image_model, write_pictures
from tunewise.comparison import at_once, build_comparison
from tunewise.comparison.at_once import n_at_once, slower_by
from tunewise.comparison.plan import plan_comparison


@pytest.fixture
def two_cores_with_room(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(at_once, "free_memory", lambda: 64 << 30)


def found(bases=None, **fields):
    asked = {"model": "tiny", "data": "tiny:sentiment", "arms": ["frozen", "lora"], "seeds": (0, 1)}
    return n_at_once(build_comparison(asked, fields).recipes, {} if bases is None else bases)


MUCH = {"train.steps": 1_000_000}


@pytest.mark.usefixtures("two_cores_with_room")
def test_two_go_side_by_side_where_the_runs_take_longer_than_the_processes_take_to_start(monkeypatch):
    bases = {}
    assert found(bases, **{"train.steps": 4}) == 1
    assert found(bases, **MUCH) == 2
    assert found(bases, **MUCH, **{"train.batch_size": 100_000}) == 1, "a run fills both cores by itself"
    monkeypatch.setattr(at_once, "free_memory", lambda: 4 << 30)
    assert found(bases, **MUCH) == 1, "there is no room for two"


def test_one_core_has_one(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert found(**MUCH) == 1


@pytest.mark.usefixtures("two_cores_with_room")
def test_images_go_in_turn(tmp_path):
    model, pictures = write_image_model(tmp_path / "vit"), write_pictures(tmp_path / "pictures")
    asked = {"model": str(model), "data": str(pictures), "arms": ["head"], "seeds": (0,)}
    assert n_at_once(build_comparison(asked, MUCH).recipes, {}) == 1


@pytest.mark.usefixtures("two_cores_with_room")
def test_a_plan_counts_that_each_of_two_has_half_the_threads(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert slower_by(1) == 1
    assert slower_by(2) == pytest.approx(1.6, abs=0.01)
    asked = {"model": "tiny", "data": {"path": "tiny:sentiment", "train": 16}, "arms": ["norms"], "seeds": (0, 1)}
    comparison = build_comparison(asked, {"train.steps": 4})
    told = plan_comparison(comparison, 2)
    assert told["workers"] == 2
    assert told["seconds"] == pytest.approx(told["arms"][0]["seconds"] * 1.602 / 2, abs=0.06)
    in_turn = build_comparison(asked | {"arms": ["frozen"]}, {"train.steps": 4})  # of which nothing is rehearsed
    assert plan_comparison(in_turn)["workers"] == 1
