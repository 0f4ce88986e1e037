"""AdamW with float32 masters for low-precision tensors, its moments as asked, and the learning rate of each step.

Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2:
  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g²;  p = p - lr (m̂ / (sqrt(v̂) + eps) + decay p)
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from tunewise.errors import UserError
from tunewise.models.aside import bytes_of, is_large
from tunewise.models.parts import layer_by_layer
from tunewise.models.quantise import require
from tunewise.training.config import ADAMW, TrainConfig

BETAS = (0.9, 0.999)
EPSILON = 1e-8
_LOW_PRECISION = (torch.bfloat16, torch.float16)
_KEPT = ("step", "exp_avg", "exp_avg_sq", "state1", "state2", "absmax1", "absmax2")
"""What is kept of a tensor's state; bitsandbytes' qmap1 and qmap2 are constants of the library."""


def check_optimiser(kind: str) -> None:
    """UserError where what `train.optimiser` names is not installed."""
    if kind != ADAMW:
        require(f"train.optimiser={kind} needs", "bitsandbytes")


class Optimiser:
    """AdamW over named tensors.  A bfloat16 tensor is updated through a float32 master copy.

    Without a master an update smaller than 1/256 of a bfloat16 weight is rounded away, which at the usual learning
    rates is most of them.
    """

    def __init__(
        self,
        tensors: Mapping[str, nn.Parameter],
        weight_decay: float = 0.0,
        factor: Callable[[str], float] = lambda name: 1.0,
        kind: str = ADAMW,
    ) -> None:
        """`factor` tells what the learning rate of a tensor, by its name, is multiplied by; `kind` is train.optimiser.

        Raises UserError where `kind` needs bitsandbytes, which is not there, and where it would round float64 away.
        """
        self._tensors = dict(tensors)
        self._masters = {
            name: nn.Parameter(tensor.detach().float().clone())
            for name, tensor in self._tensors.items()
            if tensor.dtype in _LOW_PRECISION
        }
        self._updated: dict[str, nn.Parameter] = {**self._tensors, **self._masters}
        alike: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
        for name, tensor in self._updated.items():
            alike[weight_decay if tensor.ndim >= 2 else 0.0, factor(name)].append(tensor)
        groups = [{"params": found, "weight_decay": decay, "factor": by} for (decay, by), found in alike.items()]
        # of many masters no gradients are held: those of the tensors are widened part by part, a layer at a time
        self._parts = layer_by_layer(self._updated) if is_large(bytes_of(self._masters)) else []
        self._waiting: dict[str, Tensor] = {}
        self._clip = math.inf, torch.zeros(())
        self._is_blockwise = kind != ADAMW
        self._adamw = _blockwise_adamw(groups, kind) if self._is_blockwise else _fused_adamw(groups)

    def gradient_norm(self, clip: float | None) -> Tensor:
        """The norm of the whole gradient before clipping, 0-d; gradients are clipped to `clip` here, or in `step`."""
        limit = math.inf if clip is None else clip
        if self._parts:
            self._waiting = {name: each.grad for name, each in self._tensors.items() if each.grad is not None}
            for tensor in self._tensors.values():
                tensor.grad = None
            norms = [torch.linalg.vector_norm(gradient.float()) for gradient in self._waiting.values()]
            self._clip = limit, torch.linalg.vector_norm(torch.stack(norms))
            return self._clip[1]
        for name, master in self._masters.items():
            tensor = self._tensors[name]
            master.grad = None if tensor.grad is None else tensor.grad.float()
            tensor.grad = None
        return nn.utils.clip_grad_norm_(list(self._updated.values()), limit, foreach=True)

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """One update from the gradients that `gradient_norm` has seen."""
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate * group["factor"]
        if not self._parts:
            self._adamw.step()
        for part in self._parts:
            self._step_of([name for name in part if name in self._waiting])
        for name, gradient in self._waiting.items():  # of what has no master: a method may look at it behind the step
            self._tensors[name].grad = gradient
        self._waiting = {}
        for name, master in self._masters.items():
            self._tensors[name].copy_(master)

    def _step_of(self, names: Sequence[str]) -> None:
        """The update of a part alone: what has no gradient is passed over."""
        updated = [self._updated[name] for name in names]
        for name, each in zip(names, updated, strict=True):
            each.grad = self._waiting.pop(name).float() if name in self._masters else self._waiting[name]
        nn.utils.clip_grads_with_norm_(updated, *self._clip, foreach=True)
        self._adamw.step()
        for each in updated:
            each.grad = None

    def zero_grad(self) -> None:
        self._waiting = {}
        for tensor in (*self._tensors.values(), *self._masters.values()):
            tensor.grad = None

    def state(self) -> dict[str, Tensor]:
        """Moments, their constants, step counts and masters by name; they are the optimiser's own, not copies."""
        found: dict[str, Tensor] = {f"master.{name}": master.detach() for name, master in self._masters.items()}
        for name, tensor in self._updated.items():
            for key, value in self._adamw.state.get(tensor, {}).items():
                if key in _KEPT:
                    found[f"{key}.{name}"] = torch.as_tensor(value)
        return found

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Set what `state` returned; tensors that had no moments then have none now."""
        for name, master in self._masters.items():
            master.copy_(state[f"master.{name}"])
        for name, tensor in self._updated.items():
            kept = {key: state[f"{key}.{name}"] for key in _KEPT if f"{key}.{name}" in state}
            if kept and self._is_blockwise:
                _blockwise().restore(self._adamw, tensor, kept)
            elif kept:
                self._adamw.state[tensor] = {key: _placed(key, value, tensor) for key, value in kept.items()}


def _fused_adamw(groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=0.0, betas=BETAS, eps=EPSILON, fused=True)


def _blockwise_adamw(groups: Sequence[dict[str, Any]], kind: str) -> torch.optim.Optimizer:
    check_optimiser(kind)
    if any(tensor.dtype is torch.float64 for group in groups for tensor in group["params"]):
        raise UserError(f"train.optimiser={kind} computes in float32, and this base is in float64", "dtype=float32")
    return _blockwise().adamw(groups, kind, BETAS, EPSILON)


def _blockwise() -> ModuleType:
    from tunewise.training import blockwise  # imports bitsandbytes: seconds, for those who need it

    return blockwise


def _placed(key: str, value: Tensor, tensor: Tensor) -> Tensor:
    """A private copy of a moment on its tensor's device; fused AdamW keeps the step count there too, in float32."""
    return value.to(device=tensor.device, dtype=torch.float32 if key == "step" else tensor.dtype, copy=True)


def learning_rate_at(step: int, n_steps: int, peak: float, config: TrainConfig) -> float:
    """The learning rate of `step` (from 0) of `n_steps`: a linear rise, then the schedule; never zero."""
    n_warmup = math.ceil(config.warmup * n_steps)
    if step < n_warmup:
        return peak * (step + 1) / (n_warmup + 1)
    if config.schedule == "constant":
        return peak
    progress = (step - n_warmup) / max(1, n_steps - n_warmup)
    if config.schedule == "linear":
        return peak * (1 - progress)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))
