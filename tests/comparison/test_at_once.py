"""How many runs go side by side where nobody says."""

import pytest
import torch

from tests.small_base import write_image_model, write_pictures
from tunewise.comparison import at_once, build_comparison
from tunewise.comparison.at_once import n_at_once, slower_by
from tunewise.comparison.grid import still_left
from tunewise.comparison.plan import plan_comparison
from tunewise.run import run_folder
from tunewise.training import sharing


@pytest.fixture
def two_cores_with_room(monkeypatch):
    monkeypatch.setattr(at_once, "n_cores", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(at_once, "free_memory", lambda: 64 << 30)


def found(bases=None, **fields):
    asked = {"model": "tiny", "data": "tiny:sentiment", "arms": ["frozen", "lora"], "seeds": (0, 1)}
    asked |= {name: fields.pop(name) for name in asked if name in fields}
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


@pytest.mark.usefixtures("two_cores_with_room")
def test_one_core_has_one_and_so_has_one_thread_and_one_run(monkeypatch):
    assert found(**MUCH) == 2
    assert found(**MUCH, arms=["lora"], seeds=(0,)) == 1
    monkeypatch.setattr(at_once, "n_cores", lambda: 1)
    assert found(**MUCH) == 1
    monkeypatch.setattr(at_once, "n_cores", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert found(**MUCH) == 1, "OMP_NUM_THREADS=1 allows one"


@pytest.mark.usefixtures("two_cores_with_room")
def test_an_arm_of_which_nothing_is_left_takes_no_part():
    asked = {"model": "tiny", "data": "tiny:sentiment", "arms": ["frozen", "lora"], "seeds": (0, 1)}
    recipes = build_comparison(asked, MUCH).recipes
    assert n_at_once({"frozen": (), "lora": recipes["lora"]}, {}) == 2


@pytest.mark.usefixtures("two_cores_with_room")
def test_images_go_in_turn(tmp_path):
    model, pictures = write_image_model(tmp_path / "vit"), write_pictures(tmp_path / "pictures")
    asked = {"model": str(model), "data": str(pictures), "arms": ["head"], "seeds": (0,)}
    assert n_at_once(build_comparison(asked, MUCH).recipes, {}) == 1


@pytest.mark.usefixtures("two_cores_with_room")
def test_a_plan_counts_that_each_of_two_has_half_the_threads(monkeypatch):
    monkeypatch.setattr(sharing, "n_cores", lambda: 2)
    assert slower_by(1) == 1
    assert slower_by(2) == pytest.approx(1.6, abs=0.01)
    asked = {"model": "tiny", "data": {"path": "tiny:sentiment", "train": 16}, "arms": ["norms"], "seeds": (0, 1)}
    comparison = build_comparison(asked, {"train.steps": 4})
    told = plan_comparison(comparison, 2)
    assert told["workers"] == 2
    assert told["seconds"] == pytest.approx(told["arms"][0]["seconds"] * 1.602 / 2, abs=0.06)
    in_turn = build_comparison(asked | {"arms": ["frozen"]}, {"train.steps": 4})  # of which nothing is rehearsed
    assert plan_comparison(in_turn)["workers"] == 1


def test_runs_that_are_done_take_no_time(tmp_path):
    asked = {"data": "tiny:sentiment", "arms": ["frozen", "lora"], "seeds": (0, 1)}
    comparison = build_comparison(asked)
    done = run_folder(comparison.recipes["lora"][1], tmp_path)
    done.mkdir(parents=True)
    (done / "DONE").touch()
    assert {label: [each.seed for each in left] for label, left in still_left(comparison, tmp_path).items()} == {
        "frozen": [0, 1],
        "lora": [0],
    }
    searched = build_comparison(asked | {"trials": 2})
    assert still_left(searched, tmp_path) == searched.recipes, "its runs are known once dev has chosen their fields"
