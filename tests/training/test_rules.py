"""Every optimiser is the one that transformers' Trainer takes for the same name, bit for bit; Muon is torch's."""

import logging
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainingArguments

from tests import bases
from tests.training.test_blockwise import interrupt, run_alone
from tests.training.test_lanes import training
from tests.training.test_loop import At
from tunewise.config import parse
from tunewise.errors import UserError
from tunewise.training.config import TrainConfig
from tunewise.training.interrupt import Interrupted
from tunewise.training.optimiser import Optimiser

SHAPES = {
    "layers.0.wide": (80, 64), "layers.0.tall": (20, 5), "embedding": (30, 8), "layers.0.norm": (80,),
    "layers.0.experts": (3, 6, 4),
}  # fmt: skip
INSIDE = ("layers.0.wide", "layers.0.tall")
RATE = 0.01
OF_TORCH = ("adafactor", "muon", "sgd")


def parameters(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for name, shape in SHAPES.items()
    }


def gradients(tensors, number):
    generator = torch.Generator().manual_seed(number)
    for tensor in tensors.values():
        tensor.grad = torch.randn(tensor.shape, generator=generator).to(tensor.dtype)


def steps(optimiser, tensors, numbers):
    for number in numbers:
        gradients(tensors, number)
        optimiser.gradient_norm(1.0)
        optimiser.step(RATE / number)
        optimiser.zero_grad()


def driven(optimiser, tensors, numbers):
    """The same steps, of a library's optimiser driven plainly."""
    for number in numbers:
        gradients(tensors, number)
        torch.nn.utils.clip_grad_norm_(tensors.values(), 1.0, foreach=True)
        for group in optimiser.param_groups:
            group["lr"] = RATE / number
        optimiser.step()


@pytest.mark.parametrize(
    ("name", "given", "ours"),
    [
        ("adamw_torch_fused", {"adam_beta1": 0.8, "adam_beta2": 0.95, "adam_epsilon": 1e-4}, {}),
        ("adafactor", {}, {}),
        ("sgd", {"optim_args": "momentum=0.8"}, {"momentum": 0.8}),
        ("lion_32bit", {"adam_beta2": 0.95}, {}),
        ("lion_8bit", {"adam_beta2": 0.95}, {}),
    ],
)
def test_it_is_what_trainer_takes(name, given, ours, tmp_path):
    kind, fields = Trainer.get_optimizer_cls_and_kwargs(TrainingArguments(str(tmp_path), optim=name, **given))
    theirs, found = parameters(), parameters()
    decayed = [{"params": [p], "weight_decay": 0.1 if p.ndim > 1 else 0.0} for p in theirs.values()]
    driven(kind(decayed, **fields), theirs, range(1, 6))
    of_adam = {key: value for key, value in given.items() if key != "optim_args"}
    config = TrainConfig.model_validate({"optim": name, "weight_decay": 0.1, **of_adam, **ours})
    steps(Optimiser(found, config), found, range(1, 6))
    for each, tensor in found.items():
        assert torch.equal(tensor, theirs[each]), each


def test_muon_updates_matrices_inside_layers_and_adamw_the_rest():
    theirs, found = parameters(), parameters()
    muon = torch.optim.Muon([theirs[name] for name in INSIDE], adjust_lr_fn="match_rms_adamw", weight_decay=0.1)
    decayed = [theirs["embedding"], theirs["layers.0.experts"]]
    others = [{"params": decayed, "weight_decay": 0.1}, {"params": [theirs["layers.0.norm"]]}]
    adamw = torch.optim.AdamW(others, weight_decay=0.0, fused=True)
    for number in range(1, 6):
        gradients(theirs, number)
        torch.nn.utils.clip_grad_norm_(theirs.values(), 1.0, foreach=True)
        for each in (muon, adamw):
            for group in each.param_groups:
                group["lr"] = RATE / number
            each.step()
    steps(Optimiser(found, TrainConfig(optimiser="muon", weight_decay=0.1)), found, range(1, 6))
    for name, tensor in found.items():
        assert torch.equal(tensor, theirs[name]), name


def test_a_step_of_muon_is_the_nearest_orthogonal_matrix_as_large_as_adamws():
    found = parameters()
    before = {name: tensor.detach().clone() for name, tensor in found.items()}
    gradients(found, 1)
    exact = {name: torch.linalg.svd(found[name].grad, full_matrices=False) for name in INSIDE}
    optimiser = Optimiser(found, TrainConfig(optimiser="muon"))
    optimiser.gradient_norm(None)
    optimiser.step(RATE)
    for name, (u, _, v) in exact.items():
        change = (before[name] - found[name].detach()) / (RATE * 0.2 * max(SHAPES[name]) ** 0.5)
        strengths = (u.T @ change @ v.T).diagonal()
        assert 0.6 < strengths.min() < strengths.max() < 1.3, name
        torch.testing.assert_close(u @ (u.T @ change @ v.T).diagonal().diag() @ v, change, rtol=0, atol=0.05)


@pytest.mark.parametrize("kind", OF_TORCH)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_state_that_was_written_to_safetensors_goes_on_bit_for_bit(kind, dtype, tmp_path):
    config = TrainConfig(optimiser=kind, weight_decay=0.1)
    whole, first = parameters(dtype), parameters(dtype)
    steps(Optimiser(whole, config), whole, range(1, 9))
    before = Optimiser(first, config)
    steps(before, first, range(1, 5))
    save_file(before.state(), tmp_path / "state.safetensors")
    second = {name: torch.nn.Parameter(tensor.detach().clone()) for name, tensor in first.items()}
    after = Optimiser(second, config)
    after.load_state(load_file(tmp_path / "state.safetensors"))
    steps(after, second, range(5, 9))
    for name, tensor in whole.items():
        assert torch.equal(tensor, second[name]), name


def test_adafactor_leaves_the_kernels_of_bitsandbytes_unmentioned():
    logging.getLogger("bitsandbytes").setLevel(logging.NOTSET)
    Optimiser({"a": torch.nn.Parameter(torch.ones(2, 2))}, TrainConfig(optimiser="adafactor"))
    assert not logging.getLogger("bitsandbytes").isEnabledFor(logging.WARNING)


@pytest.mark.parametrize("kind", ["adafactor", "muon"])
def test_an_interrupted_run_ends_as_one_in_one_go(kind, tmp_path):
    def lora(folder, **fields):
        model = bases.build("llama", torch.float32)
        return training(model, {"name": "lora", "rank": 4}, 0, folder, optimiser=kind, **fields)

    whole, state = run_alone(lora(tmp_path / "whole"))
    with pytest.raises(Interrupted):
        run_alone(lora(tmp_path / "cut", progress=At(3, interrupt)))
    found, resumed = run_alone(lora(tmp_path / "cut"))
    assert found.resumed_from == 3
    assert found.losses == whole.losses
    for name, value in state.items():
        assert torch.equal(resumed[name], value), name


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"optimiser": "sgd", "beta1": 0.8}, "beta1 has no effect on sgd, only on adamw, lion, muon"),
        ({"momentum": 0.8}, "momentum has no effect on adamw, only on sgd, muon"),
        ({"optimiser": "lion", "epsilon": 1e-6}, "epsilon has no effect on lion, only on adamw, muon"),
        ({"optimiser": "adafacto"}, "adafactor"),
    ],
)
def test_what_has_no_effect_is_refused(fields, told):
    with pytest.raises(UserError, match=told):
        parse(TrainConfig, fields)


def test_betas_and_the_library_are_those_of_the_rule():
    kinds = get_args(TrainConfig.model_fields["optimiser"].annotation)
    elsewhere = [kind for kind in kinds if not TrainConfig(optimiser=kind).by_bitsandbytes]
    assert elsewhere == ["adamw", "adafactor", "muon", "sgd"]
    assert TrainConfig().betas == (0.9, 0.999)
    assert TrainConfig(optimiser="paged_lion_8bit").betas == (0.9, 0.99)
    rules = {TrainConfig(optimiser=kind).rule for kind in kinds}
    assert rules == {"adamw", "lion", "adafactor", "muon", "sgd"}
