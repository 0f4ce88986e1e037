"""The optimiser of a run: a rule over named tensors, with float32 masters of those in low precision."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from tunewise.models.aside import bytes_of, is_large
from tunewise.models.parts import layer_by_layer
from tunewise.training.config import TrainConfig
from tunewise.training.rules import KEPT, blockwise, restore, rules_of

_LOW_PRECISION = (torch.bfloat16, torch.float16)


class Optimiser:
    """The rule of `train.optimiser` over named tensors.  A bfloat16 tensor is updated through a float32 master copy.

    Without a master an update smaller than 1/256 of a bfloat16 weight is rounded away, which at the usual learning
    rates is most of them.
    """

    def __init__(
        self,
        tensors: Mapping[str, nn.Parameter],
        config: TrainConfig | None = None,
        factor: Callable[[str], float] = lambda name: 1.0,
    ) -> None:
        """`factor` tells what the learning rate of a tensor, by its name, is multiplied by.

        Raises UserError as `rules_of` does.
        """
        config = config or TrainConfig()
        self._tensors = dict(tensors)
        self._masters = {
            name: nn.Parameter(tensor.detach().float().clone())
            for name, tensor in self._tensors.items()
            if tensor.dtype in _LOW_PRECISION
        }
        self._updated: dict[str, nn.Parameter] = {**self._tensors, **self._masters}
        # of many masters no gradients are held: those of the tensors are widened part by part, a layer at a time
        self._parts = layer_by_layer(self._updated) if is_large(bytes_of(self._masters)) else []
        self._waiting: dict[str, Tensor] = {}
        self._clip = math.inf, torch.zeros(())
        self._is_blockwise = config.by_bitsandbytes
        self._rules = rules_of(self._updated, config, factor)
        self._rule_of = {
            tensor: rule for rule in self._rules for group in rule.param_groups for tensor in group["params"]
        }

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
        for rule in self._rules:
            for group in rule.param_groups:
                group["lr"] = learning_rate * group["factor"]
        if not self._parts:
            self._update()
        for part in self._parts:
            self._step_of([name for name in part if name in self._waiting])
        for name, gradient in self._waiting.items():  # of what has no master: a method may look at it behind the step
            self._tensors[name].grad = gradient
        self._waiting = {}
        for name, master in self._masters.items():
            self._tensors[name].copy_(master)

    def _update(self) -> None:
        for rule in self._rules:
            rule.step()

    def _step_of(self, names: Sequence[str]) -> None:
        """The update of a part alone: what has no gradient is passed over."""
        updated = [self._updated[name] for name in names]
        for name, each in zip(names, updated, strict=True):
            each.grad = self._waiting.pop(name).float() if name in self._masters else self._waiting[name]
        nn.utils.clip_grads_with_norm_(updated, *self._clip, foreach=True)
        self._update()
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
            for key, value in self._rule_of[tensor].state.get(tensor, {}).items():
                if key in KEPT:
                    found[f"{key}.{name}"] = torch.as_tensor(value)
        return found

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Set what `state` returned; tensors that had no moments then have none now."""
        for name, master in self._masters.items():
            master.copy_(state[f"master.{name}"])
        for name, tensor in self._updated.items():
            kept = {key: state[f"{key}.{name}"] for key in KEPT if f"{key}.{name}" in state}
            if kept:
                give = blockwise().restore if self._is_blockwise else restore
                give(self._rule_of[tensor], tensor, kept)
