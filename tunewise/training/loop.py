"""The one training loop: `fit` trains whatever a tuned model declares trainable."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from tunewise.data.encode import Encoded
from tunewise.engine.backend import chosen
from tunewise.engine.objectives import Objective
from tunewise.engine.recomputing import recompute
from tunewise.methods.attach import Tuned
from tunewise.training.config import TrainConfig
from tunewise.training.interrupt import Interrupts
from tunewise.training.lane import Answer, FitResult, Lane, Steps, ToScore, Training
from tunewise.training.progress import Watcher
from tunewise.training.state import CHECKPOINTS, LOG

__all__ = ["CHECKPOINTS", "LOG", "FitResult", "fit", "fit_alone", "training_mode"]


def fit(
    tuned: Tuned,
    rows: Sequence[Encoded],
    config: TrainConfig,
    *,
    seed: int,
    folder: Path,
    objective: Objective[Any],
    dev_score: Callable[[], float] | None = None,
    progress: Watcher | None = None,
) -> FitResult:
    """Train `tuned` on `rows` and leave its best state in it; log.jsonl and checkpoints are written into `folder`.

    A checkpoint found in `folder` is resumed, bit for bit. `dev_score` is called with the model in evaluation mode;
    higher is better, and of equal scores the earlier state is kept. Raises Diverged when the loss or the gradient is no
    longer finite (before any weight is touched) and Interrupted after Ctrl-C or SIGTERM.
    """
    return fit_alone(Training(tuned, rows, config, seed, folder, objective, dev_score, progress))


def fit_alone(training: Training) -> FitResult:
    """`fit`, of what is put together already."""
    tuned, objective, device = training.tuned, training.objective, training.tuned.model.device
    forked = torch.random.fork_rng([device] if device.type == "cuda" else [])
    with forked, training_mode(tuned, training.config), chosen(device), Interrupts() as interrupts:
        torch.manual_seed(training.seed)
        lane = Lane(training)
        stopped_by = _answered(lane.steps(interrupts), objective, tuned.model)
    return lane.result(stopped_by)


def _answered(steps: Steps, objective: Objective[Any], model: PreTrainedModel) -> str:
    """Give a lane the gradients it asks for until it ends; the reason why it does."""
    with closing(steps):
        try:
            asked = next(steps)
            while True:
                if isinstance(asked, ToScore):
                    asked = steps.send(asked.alone())
                    continue
                start = time.perf_counter()
                batch, by_row = asked.batch.to(model.device), None
                with objective.ready(model):
                    if asked.by_row:
                        losses = asked.weighed(objective.row_losses(model, batch))
                        total, by_row = losses.sum(), losses.detach()
                    else:
                        total = objective.loss(model, batch)
                    loss = total / asked.weight
                    loss.backward()
                asked = steps.send(Answer(loss.detach(), time.perf_counter() - start, by_row))
        except StopIteration as end:
            return end.value


@contextmanager
def training_mode(tuned: Tuned, config: TrainConfig) -> Iterator[None]:
    """Dropout on, and activations recomputed where `config` asks for it; evaluation mode and no gradients after."""
    tuned.model.train()
    if config.checkpointing:
        recompute(tuned.model, on=True)
    try:
        yield
    finally:
        if config.checkpointing:
            recompute(tuned.model, on=False)
        tuned.model.eval()
        for tensor in tuned.trainable.values():
            tensor.grad = None
