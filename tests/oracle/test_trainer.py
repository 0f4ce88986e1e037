"""transformers' Trainer with peft as the oracle of the training loop: the same loss at every step."""

import pytest
import torch

from bench import peer
from tests import bases
from tunewise.data.encode import Encoded
from tunewise.engine.batches import epoch_batches
from tunewise.engine.criterion import CrossEntropy, minimising
from tunewise.engine.native.build import library, why_not
from tunewise.engine.objectives import NextToken, PackedNextToken
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.training.config import TrainConfig
from tunewise.training.loop import fit


def rows_of_unlike_length(n: int) -> list[Encoded]:
    generator = torch.Generator().manual_seed(2)
    rows = []
    for index in range(n):
        length = int(torch.randint(6, 30, (1,), generator=generator))
        answer = int(torch.randint(1, 5, (1,), generator=generator))
        ids = torch.randint(3, bases.VOCABULARY, (length,), generator=generator).tolist()
        labels = [-100] * (length - answer) + ids[length - answer :]
        rows.append(Encoded(str(index), tuple(ids), tuple(labels), length - answer, False))
    return rows


@pytest.mark.parametrize("objective", [NextToken(0), PackedNextToken(0)], ids=lambda objective: objective.layout)
@pytest.mark.parametrize(
    ("accumulation", "smoothing", "n_rows"), [(1, 0.0, 48), (2, 0.0, 48), (1, 0.1, 80), (2, 0.3, 32)]
)
def test_the_losses_of_every_step_are_trainers(accumulation, smoothing, n_rows, objective, tmp_path):
    if objective.layout == "packed" and library() is None:
        pytest.skip(f"no kernels here: {why_not()}")
    rows = rows_of_unlike_length(n_rows)
    config = TrainConfig(
        steps=n_rows // (8 * accumulation), batch_size=8, accumulation=accumulation, learning_rate=5e-3,
        schedule="constant", warmup=0.0, evaluate_every=None, label_smoothing=smoothing,
    )  # fmt: skip
    tuned = attach(bases.build("llama", torch.float32), parse_method({"name": "lora", "rank": 4}), seed=1)
    wrapped = peer.adapted(bases.build("llama", torch.float32), tuned)
    smoothed = minimising(objective, CrossEntropy(smoothing))
    ours = fit(tuned, rows, config, seed=0, folder=tmp_path, objective=smoothed).losses
    in_our_order = [rows[i] for batch in epoch_batches(len(rows), 8, 0, 0) for i in batch]
    _, theirs = peer.trained(wrapped, in_our_order, config)
    assert len(ours) == len(theirs) == config.steps
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert abs(ours[-1] - ours[0]) > 1e-3


@pytest.mark.parametrize(
    ("given", "more", "theirs"),
    [
        ({"optim": "adafactor", "lr_scheduler_type": "inverse_sqrt", "weight_decay": 0.1}, {}, {}),
        ({"optim": "lion_8bit", "lr_scheduler_type": "linear", "weight_decay": 0.1, "adam_beta2": 0.95}, {}, {}),
        (
            {"optim": "adamw_bnb_8bit", "lr_scheduler_type": "warmup_stable_decay", "adam_epsilon": 1e-4},
            {"decay": 0.3, "floor": 0.1},
            {"num_decay_steps": 3, "min_lr_ratio": 0.1},
        ),
    ],
    ids=lambda fields: fields.get("optim"),
)
def test_a_whole_run_in_trainers_own_words_is_trainers(given, more, theirs, tmp_path):
    """Optimiser, schedule, decay, clipping, smoothing and accumulation at once, over two epochs."""
    rows = rows_of_unlike_length(64)
    given = {**given, "max_grad_norm": 0.5, "label_smoothing_factor": 0.2, "learning_rate": 5e-3}
    how = {"epochs": 2.0, "batch_size": 8, "accumulation": 2, "warmup": 0.0, "evaluate_every": None}
    config = TrainConfig.model_validate({**given, **how, **more})
    tuned = attach(bases.build("llama", torch.float32), parse_method({"name": "lora", "rank": 4}), seed=1)
    wrapped = peer.adapted(bases.build("llama", torch.float32), tuned)
    objective = minimising(NextToken(0), CrossEntropy(0.2))
    ours = fit(tuned, rows, config, seed=0, folder=tmp_path, objective=objective).losses
    in_our_order = [rows[i] for epoch in range(2) for batch in epoch_batches(len(rows), 8, 0, epoch) for i in batch]
    told = {**given, "max_steps": 8, **({"lr_scheduler_kwargs": theirs} if theirs else {})}
    _, found = peer.trained(wrapped, in_our_order, config, told)
    assert ours == pytest.approx(found, abs=1e-5)
    assert abs(ours[-1] - ours[0]) > 1e-3
