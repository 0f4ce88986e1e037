"""Every schedule against transformers' own scheduler, step by step."""

import logging

import pytest
import torch
from transformers import TrainingArguments, get_scheduler

from tests import bases
from tests.training.test_lanes import alone, training
from tunewise.config import parse
from tunewise.errors import UserError
from tunewise.training.config import TrainConfig
from tunewise.training.schedule import learning_rate_at

PEAK, N = 3e-3, 60


def transformers_rates(name, n_warmup, **fields):
    """The learning rates of all steps; where there is warm-up, without the first one, which is at zero."""
    left_out = 1 if n_warmup else 0
    sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler = get_scheduler(name, sgd, n_warmup + left_out, N + left_out, scheduler_specific_kwargs=fields)
    rates = []
    for _ in range(N + left_out):
        rates.append(sgd.param_groups[0]["lr"])
        sgd.step()
        scheduler.step()
    return rates[left_out:]


@pytest.mark.parametrize(
    ("fields", "n_warmup", "name", "theirs"),
    [
        ({"schedule": "constant"}, 7, "constant_with_warmup", {}),
        ({"schedule": "linear"}, 7, "linear", {}),
        ({"schedule": "linear"}, 0, "linear", {}),
        ({"schedule": "linear", "floor": 0.2}, 7, "polynomial", {"lr_end": 0.2 * PEAK, "power": 1.0}),
        ({"schedule": "cosine"}, 7, "cosine", {}),
        ({"schedule": "cosine"}, 0, "cosine", {}),
        ({"schedule": "cosine", "floor": 0.1}, 7, "cosine_with_min_lr", {"min_lr_rate": 0.1}),
        ({"schedule": "inverse_sqrt"}, 7, "inverse_sqrt", {}),
        ({"schedule": "inverse_sqrt"}, 0, "inverse_sqrt", {}),
        ({"schedule": "warmup_stable_decay", "decay": 0.2}, 7, "warmup_stable_decay", {"num_decay_steps": 12}),
        (
            {"schedule": "warmup_stable_decay", "decay": 0.2, "floor": 0.1},
            0,
            "warmup_stable_decay",
            {"num_decay_steps": 12, "min_lr_ratio": 0.1},
        ),
    ],
)
def test_a_schedule_is_transformers(fields, n_warmup, name, theirs):
    config = TrainConfig(warmup_steps=n_warmup, **fields)
    ours = [learning_rate_at(step, N, PEAK, config) for step in range(N)]
    assert ours == pytest.approx(transformers_rates(name, n_warmup, **theirs), rel=0, abs=1e-12)
    assert min(ours) > 0
    assert max(ours) == PEAK


def test_warm_up_is_a_share_or_a_number_of_steps():
    def rates(**fields):
        return [learning_rate_at(step, 10, 1.0, TrainConfig(schedule="constant", **fields)) for step in range(10)]

    assert rates(warmup=0) == rates(warmup_steps=0) == [1.0] * 10
    assert rates(warmup=0.3) == rates(warmup_steps=3) == [0.25, 0.5, 0.75, *[1.0] * 7]
    assert rates(warmup_steps=30)[-1] == pytest.approx(10 / 31)


def test_a_share_is_as_many_steps_as_for_the_hugging_face_trainer(tmp_path):
    shares = (0.0, 0.01, 0.03, 0.06, 0.07, 0.1, 0.14, 0.28, 1 / 3, 0.55, 0.9999)
    for share in shares:
        theirs = TrainingArguments(str(tmp_path), warmup_steps=share)
        ours = TrainConfig(warmup=share)
        assert [ours.n_warmup(n) for n in range(1, 500)] == [theirs.get_warmup_steps(n) for n in range(1, 500)]
    assert TrainConfig(warmup=0.1).n_warmup(30) == 3


def test_a_decay_that_meets_the_warm_up_begins_behind_it():
    config = TrainConfig(schedule="warmup_stable_decay", warmup=0.5, decay=0.8)
    rates = [learning_rate_at(step, 10, 1.0, config) for step in range(10)]
    assert rates[5] == 1.0
    assert rates == sorted(rates[:6]) + sorted(rates[6:], reverse=True)


def test_a_decay_over_a_part_of_a_step_takes_all_of_it():
    config = TrainConfig(schedule="warmup_stable_decay", warmup=0.0, decay=0.25)
    rates = [learning_rate_at(step, 10, 1.0, config) for step in range(10)]
    assert rates == pytest.approx([1.0] * 8 + [0.75, 0.25])  # of 2.5 steps three, whose first is still at the peak


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 5}, ("constant", 5, 0.0)),
        ({"lr_scheduler_type": "cosine", "min_lr_rate": 0.1}, ("cosine", None, 0.1)),
    ],
)
def test_the_names_of_the_hugging_face_trainer_are_known(fields, wanted):
    config = TrainConfig.model_validate(fields)
    assert (config.schedule, config.warmup_steps, config.floor) == wanted


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"schedule": "cosine_with_min_lr"}, "write train.schedule=cosine train.floor=SHARE"),
        ({"schedule": "polynomial"}, "write train.schedule=linear train.floor=SHARE"),
        ({"warmup_steps": 0.1}, r"a share of the steps is train.warmup=0\.1"),
        ({"schedule": "constant", "floor": 0.1}, "floor has no effect on constant, only on linear, cosine"),
        ({"decay": 0.2}, "decay has no effect on cosine, only on warmup_stable_decay"),
    ],
)
def test_what_has_no_effect_or_another_name_is_told(fields, told):
    with pytest.raises(UserError, match=told):
        parse(TrainConfig, fields)


def test_a_run_that_is_all_warm_up_says_so(tmp_path, caplog):
    model = bases.build("llama", torch.float32)
    with caplog.at_level(logging.WARNING, logger="tunewise"):
        for n_warmup in (4, 5):
            alone(training(model, "norms", 0, tmp_path / str(n_warmup), warmup_steps=n_warmup))
    assert [record.message for record in caplog.records] == [
        "5 steps, and all of them warm-up: the learning rate does not reach its peak"
    ]
