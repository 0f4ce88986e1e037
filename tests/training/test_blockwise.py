"""AdamW with 8-bit and with paged moments: bitsandbytes' own optimiser bit for bit, a fourth of the bytes, resumed."""

import importlib.util
import logging
import os
import signal

import bitsandbytes
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import bases
from tests.rows import random_rows
from tests.training.test_lanes import training
from tests.training.test_loop import At
from tunewise.errors import UserError
from tunewise.training.config import TrainConfig
from tunewise.training.interrupt import Interrupted
from tunewise.training.lane import Diverged
from tunewise.training.loop import CHECKPOINTS, fit_alone
from tunewise.training.optimiser import Optimiser
from tunewise.training.together import fit_together

SHAPES = {"large": (96, 64), "small": (8, 16), "bias": (5000,)}  # 4096 values and more are kept in 8 bits
IN_8_BITS = ("large", "bias")
ALL = ("adamw_8bit", "paged_adamw", "paged_adamw_8bit")
LION = ("lion", "lion_8bit", "paged_lion_8bit")


def parameters(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for name, shape in SHAPES.items()
    }


def step(optimiser, tensors, number, rate=0.01):
    """One step by gradients that are a function of its number, clipped."""
    generator = torch.Generator().manual_seed(number)
    for tensor in tensors.values():
        tensor.grad = torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
    optimiser.gradient_norm(1.0)
    optimiser.step(rate / number)
    optimiser.zero_grad()


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_bitsandbytes_own_optimiser_bit_for_bit(kind, dtype):
    """Driven plainly on the same tensors: of bfloat16 on float32 copies, that are rounded at the end."""
    ours, theirs = (
        parameters(dtype),
        {name: torch.nn.Parameter(p.detach().float()) for name, p in parameters(dtype).items()},
    )
    optimiser = Optimiser(
        ours, TrainConfig(weight_decay=0.1, optimiser=kind), lambda name: 4.0 if name == "large" else 1.0
    )
    plain = bitsandbytes.optim.AdamW(
        [{"params": [p], "weight_decay": 0.1 if p.ndim > 1 else 0.0} for p in theirs.values()],
        betas=(0.9, 0.999), eps=1e-8, optim_bits=8 if kind.endswith("8bit") else 32,
    )  # fmt: skip
    for number in range(1, 8):
        step(optimiser, ours, number)
        generator = torch.Generator().manual_seed(number)
        for p in theirs.values():
            p.grad = torch.randn(p.shape, generator=generator).to(dtype).float()
        torch.nn.utils.clip_grad_norm_(theirs.values(), 1.0, foreach=True)
        for group, name in zip(plain.param_groups, theirs, strict=True):
            group["lr"] = 0.01 / number * (4.0 if name == "large" else 1.0)
        plain.step()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name].to(dtype)), name


def test_moments_take_a_fourth_where_a_tensor_is_large_enough():
    taken = {}
    for kind in ("adamw", "adamw_8bit"):
        tensors = parameters()
        optimiser = Optimiser(tensors, TrainConfig(optimiser=kind))
        step(optimiser, tensors, 1)
        state = {key: value for key, value in optimiser.state().items() if not key.startswith("step")}
        taken[kind] = {
            name: sum(v.numel() * v.element_size() for key, v in state.items() if key.endswith(f".{name}"))
            for name in SHAPES
        }
    for name, shape in SHAPES.items():
        n = torch.Size(shape).numel()
        assert taken["adamw"][name] == 8 * n
        n_blocks = -(-n // 256)
        assert taken["adamw_8bit"][name] == (2 * n + 8 * n_blocks if name in IN_8_BITS else 8 * n)


@pytest.mark.parametrize("kind", [*ALL, *LION])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_state_that_was_written_to_safetensors_goes_on_bit_for_bit(kind, dtype, tmp_path):
    whole = parameters(dtype)
    optimiser = Optimiser(whole, TrainConfig(weight_decay=0.1, optimiser=kind))
    for number in range(1, 9):
        step(optimiser, whole, number)
    first = parameters(dtype)
    before = Optimiser(first, TrainConfig(weight_decay=0.1, optimiser=kind))
    for number in range(1, 5):
        step(before, first, number)
    state = before.state()
    assert any(value.dtype == torch.uint8 for value in state.values()) == kind.endswith("8bit")
    save_file(state, tmp_path / "state.safetensors")
    second = {name: torch.nn.Parameter(tensor.detach().clone()) for name, tensor in first.items()}
    after = Optimiser(second, TrainConfig(weight_decay=0.1, optimiser=kind))
    after.load_state(load_file(tmp_path / "state.safetensors"))
    for number in range(5, 9):
        step(after, second, number)
    for name, tensor in whole.items():
        assert torch.equal(tensor, second[name]), name
    assert optimiser.state().keys() == after.state().keys()
    for name, value in optimiser.state().items():
        assert torch.equal(value, after.state()[name]), name


def run_alone(asked):
    asked.tuned.reattach()
    return fit_alone(asked), asked.tuned.state()


def lora(folder, model=None, **fields):
    """A run of LoRA, whose A are large enough for 8 bits."""
    method = {"name": "lora", "rank": 160, "roles": ["all"], "alpha": 160}
    return training(model or bases.build("llama", torch.float32), method, 0, folder, **fields)


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupted_run_ends_as_one_in_one_go(tmp_path):
    whole, state = run_alone(lora(tmp_path / "whole", optimiser="adamw_8bit"))
    with pytest.raises(Interrupted):
        run_alone(lora(tmp_path / "cut", optimiser="adamw_8bit", progress=At(3, interrupt)))
    stored = load_file(next((tmp_path / "cut" / CHECKPOINTS).glob("*/state.safetensors")))
    in_8_bits = [
        key for key, value in stored.items() if key.startswith("optimiser.state") and value.dtype == torch.uint8
    ]
    assert len(in_8_bits) == 2 * sum(value.numel() >= 4096 for value in state.values()) > 0
    found, resumed = run_alone(lora(tmp_path / "cut", optimiser="adamw_8bit"))
    assert found.resumed_from == 3
    assert found.losses == whole.losses
    for name, value in state.items():
        assert torch.equal(resumed[name], value), name


def test_a_checkpoint_of_another_optimiser_is_not_taken_up(tmp_path):
    with pytest.raises(Interrupted):
        run_alone(lora(tmp_path, optimiser="adamw_8bit", progress=At(3, interrupt)))
    with pytest.raises(UserError, match="belongs to another run"):
        run_alone(lora(tmp_path))


def test_lanes_keep_each_its_own(tmp_path):
    """Two runs in one batch, one with moments in 8 bits: each ends as alone."""
    model = bases.build("llama", torch.float32)
    asked = [lora(tmp_path / f"joint {kind}", model, optimiser=kind) for kind in ("adamw", "adamw_8bit")]
    joint = fit_together(asked)
    assert not any(isinstance(each, Diverged) for each in joint)
    for of_joint, each in zip(joint, asked, strict=True):
        kind = each.config.optimiser
        found, _ = run_alone(lora(tmp_path / f"alone {kind}", optimiser=kind))
        assert of_joint.losses == pytest.approx(found.losses, abs=1e-4)
    assert joint[0].losses != joint[1].losses


def test_8_bits_train_to_about_the_same_loss(tmp_path):
    ends = {}
    for kind in ("adamw", *ALL):
        asked = lora(tmp_path / kind, rows=random_rows(6, seed=5), optimiser=kind, steps=20, learning_rate=5e-3)
        ends[kind] = run_alone(asked)[0].losses
    assert ends["adamw"][-1] < 0.5 * ends["adamw"][0]
    assert ends["adamw_8bit"][-1] == pytest.approx(ends["adamw"][-1], rel=0.01)
    assert ends["adamw_8bit"] == ends["paged_adamw_8bit"] != ends["adamw"]
    assert ends["paged_adamw"] == pytest.approx(ends["adamw"], rel=1e-4)


def test_on_a_cpu_it_says_that_nothing_is_paged(caplog, recwarn):
    with caplog.at_level(logging.WARNING, logger="tunewise"):
        tensors = parameters()
        step(Optimiser(tensors, TrainConfig(optimiser="paged_adamw_8bit")), tensors, 1)
    assert "on a CPU nothing is paged" in caplog.text
    assert not recwarn.list  # bitsandbytes' own warning at the first step


def test_what_cannot_be_is_refused(monkeypatch):
    with pytest.raises(UserError, match="computes in float32, and this base is in float64"):
        Optimiser(parameters(torch.float64), TrainConfig(optimiser="adamw_8bit"))
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else there(name))
    with pytest.raises(UserError, match="optimiser=adamw_8bit needs bitsandbytes") as caught:
        Optimiser(parameters(), TrainConfig(optimiser="adamw_8bit"))
    assert caught.value.hint == "pip install 'tunewise[quant]'"
    assert Optimiser(parameters()).state() == {}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"optim": "adamw_torch_fused"}, "adamw"),
        ({"optim": "adamw_bnb_8bit"}, "adamw_8bit"),
        ({"optim": "paged_adamw_32bit"}, "paged_adamw"),
        ({"optimiser": "paged_adamw_8bit"}, "paged_adamw_8bit"),
        ({}, "adamw"),
    ],
)
def test_the_names_of_the_hugging_face_trainer_are_known(given, wanted):
    assert TrainConfig.model_validate(given).optimiser == wanted
