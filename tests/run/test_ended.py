"""What a later start of a run that is done adds to it, and what it takes away."""

import pytest

import tunewise
from tests.training.test_tensorboard import QUICK, read
from tunewise.errors import UserError
from tunewise.run import ended

pytestmark = pytest.mark.usefixtures("without_a_fresh_process")


def train(out, **overrides):
    return tunewise.train("tiny:sentiment", out=out, overrides={**QUICK, **overrides})


def files_of(out):
    there = (path for path in out.rglob("*") if path.is_file() and path.parent.name != "tensorboard")
    return {path: path.stat().st_mtime_ns for path in there}


def test_a_run_that_is_done_is_told_to_who_is_to_know_of_it_later(tmp_path):
    metrics = train(tmp_path)
    before = files_of(tmp_path)
    assert train(tmp_path, **{"train.report_to": "tensorboard"}) == metrics
    found = read(tmp_path)
    assert [each.step for each in found.Scalars("train/loss")] == list(range(1, 7))
    (told,) = found.Scalars("test/accuracy")
    assert told.value == pytest.approx(metrics["test"]["accuracy"])
    events = list((tmp_path / "tensorboard").iterdir())
    assert train(tmp_path, **{"train.report_to": "tensorboard"}) == train(tmp_path) == metrics
    assert list((tmp_path / "tensorboard").iterdir()) == events, "told once"
    assert files_of(tmp_path) == before
    with pytest.raises(UserError, match=r"run of another recipe: train\.steps was 6 and is 7\n"):
        train(tmp_path, **{"train.steps": 7, "train.report_to": "tensorboard"})


def test_checkpoints_that_a_killed_process_left_behind_done_are_removed(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(folder):
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(ended.checkpoint, "remove", kill)
        train(tmp_path, **{"train.checkpoint_every": 2})
    assert (tmp_path / "DONE").is_file()
    assert list((tmp_path / "checkpoints").iterdir())
    assert train(tmp_path, **{"train.checkpoint_every": 2})["steps"] == 6
    assert not (tmp_path / "checkpoints").exists()
