"""What TensorBoard reads is what log.jsonl and metrics.json say."""

import importlib.util
import json

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

import tunewise
from tests.training.test_blockwise import interrupt
from tests.training.test_loop import At
from tunewise.config import parse
from tunewise.errors import UserError
from tunewise.training.config import TrainConfig
from tunewise.training.interrupt import Interrupted
from tunewise.training.tensorboard import TensorBoard

pytestmark = pytest.mark.usefixtures("without_a_fresh_process")
QUICK = {"data.train": 24, "data.dev": 8, "data.test": 8, "train.steps": 6, "retention": None}
OVERRIDES = {**QUICK, "train.report_to": "tensorboard"}


def read(folder):
    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return found


def test_every_step_and_the_scores_of_a_run_that_was_interrupted_are_there_once(tmp_path):
    with pytest.raises(Interrupted):
        tunewise.train("tiny:sentiment", out=tmp_path, overrides=OVERRIDES, progress=At(3, interrupt))
    metrics = tunewise.train("tiny:sentiment", out=tmp_path, overrides=OVERRIDES)
    assert metrics["resumed_from"] == 3
    found = read(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert len(steps) == 6
    for name in ("loss", "learning_rate", "gradient_norm"):
        told = found.Scalars(f"train/{name}")
        assert [each.step for each in told] == list(range(1, 7))
        assert [each.value for each in told] == pytest.approx([line[name] for line in steps], rel=1e-6)
    looks = [(line["step"], line["dev"]) for line in lines if "dev" in line]
    assert [each.step for each in found.Scalars("dev/score")] == [step for step, _ in looks]
    assert [each.value for each in found.Scalars("dev/score")] == pytest.approx([score for _, score in looks])
    for part in ("dev", "test"):
        for name, value in metrics[part].items():
            (told,) = found.Scalars(f"{part}/{name}")
            assert (told.step, told.value) == (6, pytest.approx(value, rel=1e-6))
    recipe = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    assert recipe["train"]["report_to"] == ["tensorboard"]
    started = found.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    told = HParamsPluginData.FromString(started).session_start_info.hparams
    assert (told["method.rank"].number_value, told["train.report_to"].string_value) == (8, '["tensorboard"]')


def test_what_is_told_is_there_at_once_and_hides_what_was_told_behind_the_checkpoint(tmp_path):
    def tell(steps, loss):
        watcher = TensorBoard(tmp_path)
        for step in steps:
            watcher.line({"step": step, "loss": loss + step})
        return [(each.step, each.value) for each in read(tmp_path).Scalars("train/loss")]

    assert tell((1, 2, 3), 0.0) == [(1, 1.0), (2, 2.0), (3, 3.0)]  # whatever ends the process now
    assert tell((2,), 10.0) == [(1, 1.0), (2, 12.0)]


def test_nothing_is_told_unasked(tmp_path):
    tunewise.train("tiny:sentiment", out=tmp_path, overrides={**OVERRIDES, "train.report_to": "none", "train.steps": 2})
    assert not (tmp_path / "tensorboard").exists()


def test_without_the_library_it_says_what_to_install(tmp_path, monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorboard" else there(name))
    with pytest.raises(UserError, match=r"train\.report_to=tensorboard needs tensorboard") as caught:
        tunewise.train("tiny:sentiment", out=tmp_path, overrides=OVERRIDES)
    assert caught.value.hint == "pip install 'tunewise[track]'"
    assert not any(tmp_path.iterdir())


def test_only_what_is_there_is_taken():
    assert TrainConfig(report_to="tensorboard").report_to == ("tensorboard",)
    assert TrainConfig(report_to=None).report_to == TrainConfig().report_to == ()
    for given in ("wandb", ["tensorboard", "mlflow"]):
        with pytest.raises(UserError, match="is not told by itself, as tensorboard is"):
            parse(TrainConfig, {"report_to": given})
