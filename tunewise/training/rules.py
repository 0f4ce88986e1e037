"""The update rules that `train.optimiser` names, each as the library that has it computes it, and what they keep.

adamw: Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2; torch's:
  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g²;  p = p - lr (m̂ / (sqrt(v̂) + eps) + decay p)
sgd: Sutskever et al. 2013, with a heavy ball; torch's:  m = momentum m + g + decay p;  p = p - lr m
adafactor: Shazeer & Stern 2018, arXiv:1804.04235, algorithm 4, v of a matrix from the means of its rows and columns;
  transformers', and as its Trainer asks for it: at the learning rate of the schedule, without m.
muon: Jordan 2024, kellerjordan.github.io/posts/muon, m of a matrix made orthogonal; torch's. The update is as large as
  AdamW's (Liu et al. 2025, arXiv:2502.16982, eq. 4), so that one learning rate does for the matrices inside layers and
  for the rest, which AdamW updates.
lion, and adamw in 8 bits or paged: `blockwise.py`.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from tunewise.errors import UserError
from tunewise.models.parts import is_matrix_of_a_layer
from tunewise.models.quantise import require
from tunewise.training.config import TrainConfig

KEPT = (
    "step", "exp_avg", "exp_avg_sq", "exp_avg_sq_row", "exp_avg_sq_col", "momentum_buffer",
    "state1", "state2", "absmax1", "absmax2",
)  # fmt: skip
"""What is kept of a tensor's state; bitsandbytes' qmap1 and qmap2 are constants of the library."""
SGD_MOMENTUM, MUON_MOMENTUM = 0.9, 0.95

Groups = Sequence[dict[str, Any]]


def check_optimiser(config: TrainConfig) -> None:
    """UserError where what `train.optimiser` names is not installed."""
    if config.by_bitsandbytes:
        require(f"train.optimiser={config.optimiser} needs", "bitsandbytes")


def rules_of(
    tensors: Mapping[str, nn.Parameter], config: TrainConfig, factor: Callable[[str], float]
) -> list[torch.optim.Optimizer]:
    """One rule for all tensors, or of muon two; `factor` is what the learning rate of a tensor is multiplied by.

    Raises UserError where the rule needs bitsandbytes, which is not there, and where it would round float64 away.
    """
    check_optimiser(config)
    if config.rule != "muon":
        return [_rule(config, _groups(tensors, config.weight_decay, factor))]
    by_muon = {name: tensor for name, tensor in tensors.items() if is_matrix_of_a_layer(name, tensor)}
    others = {name: tensor for name, tensor in tensors.items() if name not in by_muon}
    groups = [_groups(each, config.weight_decay, factor) for each in (by_muon, others)]
    return [rule(config, of) for rule, of in zip((_muon, _adamw), groups, strict=True) if of]


def restore(rule: torch.optim.Optimizer, tensor: Tensor, state: Mapping[str, Tensor]) -> None:
    """Give `tensor` what was kept of it, as private copies on its device."""
    rule.state[tensor] = {key: _placed(rule, key, value, tensor) for key, value in state.items()}


def blockwise() -> ModuleType:
    """`training.blockwise`, which imports bitsandbytes: seconds, for those who need it."""
    from tunewise.training import blockwise

    return blockwise


def _groups(
    tensors: Mapping[str, nn.Parameter], weight_decay: float, factor: Callable[[str], float]
) -> list[dict[str, Any]]:
    """Tensors of one decay and one factor together."""
    alike: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for name, tensor in tensors.items():
        alike[weight_decay if tensor.ndim >= 2 else 0.0, factor(name)].append(tensor)
    return [{"params": found, "weight_decay": decay, "factor": by} for (decay, by), found in alike.items()]


def _rule(config: TrainConfig, groups: Groups) -> torch.optim.Optimizer:
    if config.by_bitsandbytes:
        return _blockwise(config, groups)
    return {"adamw": _adamw, "sgd": _sgd, "adafactor": _adafactor}[config.rule](config, groups)


def _adamw(config: TrainConfig, groups: Groups) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=0.0, betas=config.betas, eps=config.epsilon, fused=True)


def _sgd(config: TrainConfig, groups: Groups) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=0.0, momentum=config.momentum or SGD_MOMENTUM)


def _adafactor(config: TrainConfig, groups: Groups) -> torch.optim.Optimizer:
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # which this imports, and which tells of its kernels
    from transformers.optimization import Adafactor  # and its Trainer: a second, for those who need it

    return Adafactor(groups, lr=0.0, scale_parameter=False, relative_step=False)


def _muon(config: TrainConfig, groups: Groups) -> torch.optim.Optimizer:
    momentum = config.momentum or MUON_MOMENTUM
    return torch.optim.Muon(groups, lr=0.0, momentum=momentum, adjust_lr_fn="match_rms_adamw")


def _blockwise(config: TrainConfig, groups: Groups) -> torch.optim.Optimizer:
    if any(tensor.dtype is torch.float64 for group in groups for tensor in group["params"]):
        told = f"train.optimiser={config.optimiser} computes in float32, and this base is in float64"
        raise UserError(told, "dtype=float32")
    return blockwise().rule_of(groups, config)


def _placed(rule: torch.optim.Optimizer, key: str, value: Tensor, tensor: Tensor) -> Tensor | int:
    """Fused AdamW keeps the step count on the tensor's device too, in float32; Adafactor a plain number."""
    if key == "step" and "fused" not in rule.defaults:
        return int(value)
    return value.to(device=tensor.device, dtype=torch.float32 if key == "step" else tensor.dtype, copy=True)
