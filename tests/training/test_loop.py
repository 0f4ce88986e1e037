import json
import os
import signal

import pytest
import torch

from tests.bases import build
from tests.rows import random_rows
from tunewise.engine.objectives import NextToken
from tunewise.errors import UserError
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.training.config import TrainConfig
from tunewise.training.interrupt import Interrupted
from tunewise.training.loop import CHECKPOINTS, LOG, fit
from tunewise.training.progress import Silent


def lora(dtype=torch.float32, dropout=0.0):
    return attach(build("llama", dtype), parse_method({"name": "lora", "rank": 4, "dropout": dropout}), seed=1)


def train(tuned, rows, folder, dev_score=None, progress=None, **fields):
    config = TrainConfig(**{"learning_rate": 1e-2, "batch_size": 4, "schedule": "constant", **fields})
    return fit(
        tuned,
        rows,
        config,
        seed=0,
        folder=folder,
        objective=NextToken(0, tuned.prefix_ids),
        dev_score=dev_score,
        progress=progress,
    )


def log_of(folder):
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class At(Silent):
    """Does something once, after a given step."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def stepped(self, step, loss, n_tokens):
        if step == self.step:
            self.action()


class Each(Silent):
    """Does something after every step."""

    def __init__(self, action):
        self.action = action

    def stepped(self, step, loss, n_tokens):
        self.action()


def test_eight_rows_are_learnt_by_heart(tmp_path):
    tuned = lora()
    result = train(tuned, random_rows(8), tmp_path, steps=150, learning_rate=2e-2)
    assert result.losses[0] > 3
    assert result.losses[-1] < 0.5 * result.losses[0]
    assert (result.steps, result.stopped_by, result.resumed_from) == (150, "steps", 0)
    assert result.tokens == 75 * sum(len(row.ids) for row in random_rows(8))
    assert result.tokens_per_second == pytest.approx(result.tokens / result.seconds)
    assert result.peak_bytes > 50e6


@pytest.mark.parametrize("method", ["lora", "full"])
def test_accumulated_batches_make_the_step_of_one_large_batch(tmp_path, method):
    """Rows of unlike label counts: normalising each batch by itself would give another step."""
    rows, found = random_rows(8), []
    for batch_size, accumulation in [(8, 1), (2, 4), (3, 3)]:
        tuned = attach(build("llama"), parse_method(method), seed=1)
        folder = tmp_path / str(batch_size)
        result = train(tuned, rows, folder, epochs=5, batch_size=batch_size, accumulation=accumulation)
        found.append((result.losses, tuned.state()))
    for losses, state in found[1:]:
        assert losses == pytest.approx(found[0][0], abs=1e-9)
        for name, tensor in state.items():
            torch.testing.assert_close(tensor, found[0][1][name], rtol=0, atol=1e-8, msg=name)


def test_the_log_has_one_line_a_step(tmp_path):
    result = train(lora(), random_rows(10), tmp_path, epochs=2, dev_score=lambda: 0.5, warmup=0.5)
    lines = log_of(tmp_path)
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    assert [line["loss"] for line in steps] == result.losses
    assert [line["learning_rate"] for line in steps] == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01])
    assert all(line["gradient_norm"] > 0 and line["tokens"] > 0 and line["seconds"] > 0 for line in steps)
    assert [(line["step"], line["dev"]) for line in lines if "dev" in line] == [(3, 0.5), (6, 0.5)]
    assert sum(line["tokens"] for line in steps) == 2 * sum(len(row.ids) for row in random_rows(10))


def test_the_best_state_by_dev_score_is_kept(tmp_path):
    states, scores = [], iter([0.1, 0.9, 0.9, 0.2])
    tuned = lora()

    def dev_score():
        assert not tuned.model.training
        states.append(tuned.state())
        return next(scores)

    result = train(tuned, random_rows(8), tmp_path, dev_score, epochs=4)
    assert (result.best_step, result.best_score, result.stopped_by) == (4, 0.9, "steps")
    assert [score for _, score in result.scores] == [0.1, 0.9, 0.9, 0.2]
    assert same(tuned.state(), states[1])
    assert not same(states[1], states[2])
    assert not tuned.model.training


def test_patience_ends_a_run_that_no_longer_gains(tmp_path):
    scores = iter([0.3, 0.2, 0.25, 0.9])
    result = train(lora(), random_rows(8), tmp_path, lambda: next(scores), epochs=10, patience=2)
    assert (result.stopped_by, result.steps, result.best_step) == ("patience", 6, 2)


def test_a_loss_that_is_nan_stops_before_the_weights_are_touched(tmp_path):
    """Token 63 poisons whoever reads it; the row that holds it is named."""
    tuned = lora()
    rows = [row for row in random_rows(40) if 63 not in row.ids][:12]
    poisoned = type(rows[0])("the bad row", (1, 63, 5, 2), (-100, -100, 5, 2), 2, False)
    with torch.no_grad():
        tuned.model.get_input_embeddings().weight[63] = float("nan")
    states = [tuned.state()]
    with pytest.raises(UserError) as caught:
        train(tuned, [*rows, poisoned], tmp_path, progress=Each(lambda: states.append(tuned.state())), batch_size=2)
    assert caught.value.message == f"the loss is not finite at step {len(states)} of 21; rows: the bad row"
    assert "train.learning_rate (now 0.01)" in caught.value.hint
    assert len(states) > 1
    assert same(tuned.state(), states[-1])
    assert all(tensor.grad is None for tensor in tuned.trainable.values())


def test_a_gradient_that_is_infinite_stops_before_the_weights_are_touched(tmp_path):
    tuned = lora()
    start = tuned.state()
    next(iter(tuned.trainable.values())).register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(UserError, match=r"the gradient is not finite at step 1 of .*; rows: row"):
        train(tuned, random_rows(8), tmp_path)
    assert same(tuned.state(), start)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path, number):
    rows, scores = random_rows(12), [0.1, 0.4, 0.3, 0.2]
    whole = lora(dropout=0.3)
    uninterrupted = train(whole, rows, tmp_path / "whole", iter(scores).__next__, epochs=4)
    first = lora(dropout=0.3)
    scored = iter(scores)
    stop = At(7, lambda: os.kill(os.getpid(), number))
    with pytest.raises(Interrupted, match=f"{number.name} after step 7 of 12"):
        train(first, rows, tmp_path / "cut", scored.__next__, progress=stop, epochs=4)
    assert signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL)
    second = lora(dropout=0.3)
    result = train(second, rows, tmp_path / "cut", scored.__next__, epochs=4)
    assert result.resumed_from == 7
    assert result.losses == uninterrupted.losses
    assert (result.best_step, result.scores) == (6, uninterrupted.scores)
    assert same(whole.state(), second.state())

    def without_time(lines):
        return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]

    assert without_time(log_of(tmp_path / "cut")) == without_time(log_of(tmp_path / "whole"))


def test_an_interrupt_inside_an_accumulated_step_takes_that_step_again(tmp_path):
    rows, fields = random_rows(12), {"epochs": 3, "batch_size": 2, "accumulation": 3}
    whole, cut = lora(dropout=0.3), lora(dropout=0.3)
    expected = train(whole, rows, tmp_path / "whole", **fields)
    calls = []

    def interrupt(*_):
        calls.append(1)
        if len(calls) == 3 * 2 + 2:
            os.kill(os.getpid(), signal.SIGINT)

    hook = cut.model.register_forward_pre_hook(interrupt)
    with pytest.raises(Interrupted, match="after step 2 of 6"):
        train(cut, rows, tmp_path / "cut", **fields)
    hook.remove()
    resumed = lora(dropout=0.3)
    assert train(resumed, rows, tmp_path / "cut", **fields).losses == expected.losses
    assert same(whole.state(), resumed.state())


def test_a_second_interrupt_acts_at_once(tmp_path):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(lora(), random_rows(8), tmp_path, progress=At(2, twice))


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    stop = At(1, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted):
        train(lora(), random_rows(8), tmp_path, progress=stop)
    with pytest.raises(UserError, match="belongs to another run"):
        train(lora(), random_rows(8, seed=5), tmp_path)
    assert (tmp_path / CHECKPOINTS / "step-00000001" / "state.json").exists()


def test_what_is_minimised_and_how_is_the_same_behind_a_checkpoint_and_who_is_told_need_not_be(tmp_path):
    with pytest.raises(Interrupted):
        train(lora(), random_rows(8), tmp_path, progress=At(1, lambda: os.kill(os.getpid(), signal.SIGINT)))
    others = {
        "label_smoothing": 0.1, "class_weights": "balanced", "beta2": 0.95, "epsilon": 1e-6, "warmup_steps": 1,
        "schedule": "inverse_sqrt", "optimiser": "sgd", "weight_decay": 0.1, "packing": False,
    }  # fmt: skip
    for name, value in others.items():
        with pytest.raises(UserError, match="belongs to another run"):
            train(lora(), random_rows(8), tmp_path, **{name: value})
    told = {"report_to": ("tensorboard",), "checkpoint_every": 1, "lanes": False}
    assert train(lora(), random_rows(8), tmp_path, **told).resumed_from == 1


def test_gradient_checkpointing_changes_nothing(tmp_path):
    plain, frugal = lora(), lora()
    a = train(plain, random_rows(8), tmp_path / "a", epochs=2)
    b = train(frugal, random_rows(8), tmp_path / "b", epochs=2, checkpointing=True)
    assert a.losses == b.losses
    assert same(plain.state(), frugal.state())
    assert not frugal.model.is_activation_checkpointing


def test_training_leaves_the_global_generator_alone(tmp_path):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    train(lora(dropout=0.5), random_rows(8), tmp_path, epochs=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_bfloat16_base_trains(tmp_path):
    tuned = attach(build("llama", torch.bfloat16), parse_method("full"), seed=0)
    result = train(tuned, random_rows(8), tmp_path, steps=40, learning_rate=3e-3)
    assert result.losses[-1] < 0.8 * result.losses[0]


def test_no_rows_are_refused(tmp_path):
    with pytest.raises(UserError, match="no row to train on"):
        train(lora(), [], tmp_path)
