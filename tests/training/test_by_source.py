"""Rows of several sources: what the log tells of each, alone and beside other runs, and after a stop."""

import os
import signal

import pytest
import torch

from tests import bases
from tests.rows import random_rows
from tests.training.test_lanes import training
from tests.training.test_loop import At, log_of, same
from tunewise.engine.objectives import NextToken, PackedNextToken
from tunewise.engine.sources import Sources
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.training.config import TrainConfig
from tunewise.training.interrupt import Interrupted
from tunewise.training.lane import Training
from tunewise.training.loop import fit_alone
from tunewise.training.progress import Silent
from tunewise.training.together import fit_together

ROWS = random_rows(14)
SIZES = {"a": 9, "b": 5}


def mixed(seed=0):
    return Sources(SIZES, (0.7, 0.3), 12)


def lora(objective=NextToken):
    """In float64; the kernels of packed rows are for float32."""
    dtype = torch.float32 if objective is PackedNextToken else torch.float64
    return attach(bases.build("llama", dtype), parse_method("lora"), seed=1)


def alone(folder, objective, sources=None, progress=None, tuned=None, **fields):
    """A run on these rows; the tuned model is given where it is looked at meanwhile."""
    tuned = tuned or lora(objective)
    config = TrainConfig(**{"learning_rate": 1e-2, "batch_size": 4, "steps": 7, **fields})
    how = objective(0, tuned.prefix_ids)
    result = fit_alone(Training(tuned, ROWS, config, 0, folder, how, progress=progress, sources=sources))
    return tuned, result


def loss_on(model, rows):
    """Nats per label token of these rows, one after another."""
    batches = [NextToken(0).collate([row]) for row in rows]
    total = sum(float(NextToken(0).loss(model, batch)) for batch in batches)
    return total / sum(batch.n_labels for batch in batches)


@pytest.mark.parametrize("objective", [NextToken, PackedNextToken])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_loss_of_a_source_is_that_on_its_rows_alone(tmp_path, objective, accumulation):
    """Measured before each step, with the weights that the step has seen."""
    seen = []
    tuned, sources = lora(objective), mixed()
    steps = []  # the rows of each: none goes over the end of an epoch
    for epoch in range(3):
        batches = sources.batches(4, 0, epoch)
        groups = [batches[start : start + accumulation] for start in range(0, len(batches), accumulation)]
        steps += [[row for batch in group for row in batch] for group in groups]

    class Look(Silent):
        def _now(self, step):
            rows = steps[step]
            with torch.no_grad():
                seen.append(
                    {
                        name: loss_on(tuned.model, [ROWS[row] for row in rows if sources.of(row) == number])
                        for number, name in enumerate(SIZES)
                        if any(sources.of(row) == number for row in rows)
                    }
                )

        def started(self, name, first_step, n_steps):
            self._now(0)

        def stepped(self, step, loss, n_tokens):
            self._now(step)

    fields = {"steps": 3, "accumulation": accumulation, "batch_size": 4}
    alone(tmp_path, objective, sources=sources, progress=Look(), tuned=tuned, **fields)
    lines, exact = log_of(tmp_path), 1e-10 if objective is NextToken else 1e-5
    assert len(lines) == 3
    for line, expected in zip(lines, seen, strict=False):
        found = {name: told["loss"] for name, told in line["by_source"].items()}
        assert found == pytest.approx(expected, abs=exact)
        assert sum(told["label_tokens"] for told in line["by_source"].values()) == line["label_tokens"]
        whole = sum(told["loss"] * told["label_tokens"] for told in line["by_source"].values())
        assert whole / line["label_tokens"] == pytest.approx(line["loss"], abs=exact)


def test_what_is_learnt_is_the_same_whether_sources_are_told_or_not(tmp_path):
    """Rows of one source, and of two that are drawn as one: the same weights bit for bit, as with replay before."""
    one, _ = alone(tmp_path / "one", PackedNextToken)
    two, _ = alone(tmp_path / "two", PackedNextToken, sources=Sources(SIZES))
    assert same(one.state(), two.state())
    assert "by_source" not in log_of(tmp_path / "one")[0]
    assert "by_source" in log_of(tmp_path / "two")[0]


def test_a_mixture_that_was_stopped_goes_on_bit_for_bit(tmp_path):
    """In the middle of its second epoch, with another object that knows nothing of the draws before."""
    whole, _ = alone(tmp_path / "whole", NextToken, sources=mixed(), batch_size=5, steps=11)
    stop = At(4, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted, match="after step 4 of 11"):
        alone(tmp_path / "cut", NextToken, sources=mixed(), progress=stop, batch_size=5, steps=11)
    again, result = alone(tmp_path / "cut", NextToken, sources=mixed(), batch_size=5, steps=11)
    assert result.resumed_from == 4
    assert same(whole.state(), again.state())
    without_time = [
        [{k: v for k, v in line.items() if k != "seconds"} for line in log_of(tmp_path / name)]
        for name in ("whole", "cut")
    ]
    assert without_time[0] == without_time[1]


def test_a_checkpoint_of_other_rates_is_refused(tmp_path):
    stop = At(2, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted):
        alone(tmp_path, NextToken, sources=mixed(), progress=stop)
    with pytest.raises(Exception, match="belongs to another run"):
        alone(tmp_path, NextToken, sources=Sources(SIZES, (0.6, 0.4), 12))


def test_each_lane_tells_its_own_sources(tmp_path):
    """Beside another run a lane has the losses by source that it has alone."""
    model = bases.build("llama", torch.float64)
    runs = [training(model, "lora", seed, tmp_path / str(seed), rows=ROWS) for seed in (0, 1)]
    runs = [Training(**{**vars(run), "sources": mixed()}) for run in runs]
    fit_together(runs)
    for run in runs:
        run.tuned.reattach()
        folder = tmp_path / f"alone {run.seed}"
        fresh = training(bases.build("llama", torch.float64), "lora", run.seed, folder, rows=ROWS)
        run.tuned.detach()
        fresh.tuned.reattach()
        fit_alone(Training(**{**vars(fresh), "sources": mixed()}))
        told, expected = log_of(run.folder), log_of(folder)
        assert len(told) == len(expected) == 5
        for line, other in zip(told, expected, strict=True):
            assert line["by_source"].keys() == other["by_source"].keys()
            for name, of_source in line["by_source"].items():
                assert of_source["loss"] == pytest.approx(other["by_source"][name]["loss"], abs=1e-9)
                assert of_source["label_tokens"] == other["by_source"][name]["label_tokens"]
