"""A run that stops at a share of its steps is the whole run on its way, and goes on to the same end, bit for bit."""

from dataclasses import replace

import pytest
import torch

from tests.bases import build
from tests.rows import random_rows
from tests.training.test_loop import log_of, same
from tunewise.engine.objectives import NextToken
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.training import checkpoint
from tunewise.training.config import TrainConfig
from tunewise.training.lane import Training
from tunewise.training.loop import CHECKPOINTS, fit_alone
from tunewise.training.together import fit_together

CONFIG = TrainConfig(learning_rate=1e-2, batch_size=4, schedule="cosine", steps=8)
DROPOUT = {"name": "lora", "rank": 4, "dropout": 0.2}


def training(folder, model=None, method=DROPOUT, until=None, seed=0):
    tuned = attach(build("llama", torch.float32) if model is None else model, parse_method(method), seed=1)
    return Training(tuned, random_rows(10), CONFIG, seed, folder, NextToken(0, tuned.prefix_ids), until=until)


def losses(folder):
    return [(line["step"], line["loss"], line["learning_rate"]) for line in log_of(folder)]


def test_rungs_go_on_bit_for_bit(tmp_path):
    whole = training(tmp_path / "whole")
    want = fit_alone(whole)
    assert (want.stopped_by, want.steps, want.n_steps) == ("steps", 8, 8)
    for until, step in ((0.25, 2), (0.5, 4), (1.0, 8)):
        part = training(tmp_path / "part", until=until)
        found = fit_alone(part)
        assert (found.steps, found.n_steps, found.stopped_by) == (step, 8, "steps" if step == 8 else "until")
        assert checkpoint.load(tmp_path / "part" / CHECKPOINTS).state["position"]["step"] == step
    assert found.resumed_from == 4
    assert losses(tmp_path / "part") == losses(tmp_path / "whole"), "with the schedule of the whole length"
    assert same(part.tuned.state(), whole.tuned.state())
    again = training(tmp_path / "part", until=1.0)
    assert fit_alone(again).resumed_from == 8
    assert same(again.tuned.state(), whole.tuned.state()), "nothing is trained twice"


def test_lanes_stop_at_rungs_and_go_on_alone(tmp_path):
    model = build("llama", torch.float32)
    pair = []
    for name, method in (("a", {"name": "lora", "rank": 4}), ("b", {"name": "ia3"})):
        pair.append(training(tmp_path / name, model, method, until=0.5))
        pair[-1].tuned.detach()
    assert [each.stopped_by for each in fit_together(pair)] == ["until", "until"]
    for each in pair:
        each.tuned.reattach()
        end = fit_alone(replace(each, until=None))
        assert (end.steps, end.resumed_from, end.lanes) == (8, 4, 1)
        alone = training(tmp_path / "alone" / each.folder.name, None, each.tuned.method.configuration())
        assert fit_alone(alone).losses == pytest.approx(end.losses, abs=1e-5)
        each.tuned.detach()


def test_a_share_below_one_step_is_one_step(tmp_path):
    assert fit_alone(training(tmp_path, until=0.01)).steps == 1


@pytest.mark.parametrize(("n_rows", "batch", "accumulation"), [(10, 4, 1), (10, 4, 2), (16, 4, 4), (1, 8, 3)])
def test_the_length_of_a_run_is_told_beforehand(n_rows, batch, accumulation):
    config = TrainConfig(batch_size=batch, accumulation=accumulation, epochs=2.5)
    batches = -(-n_rows // batch)
    assert config.steps_per_epoch(n_rows) == -(-batches // accumulation)
    assert config.n_steps(n_rows) == max(1, round(2.5 * config.steps_per_epoch(n_rows)))
    assert config.model_copy(update={"steps": 7}).n_steps(n_rows) == 7
