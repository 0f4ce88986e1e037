"""Trainable parameters and adapter size of each method on a base, counted on the meta device from its config alone."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from tunewise.methods import METHODS, parse_method
from tunewise.methods.attach import count_by_dtype
from tunewise.methods.base import Method
from tunewise.models.families import WRITERS, kind_of
from tunewise.models.heads import TaskHead
from tunewise.models.load import load_config


@dataclass(frozen=True)
class ParameterPlan:
    """What one method would train: values, their share of the base's, and bytes of the adapter's tensors on disk."""

    method: Method
    n_trainable: int
    n_base: int
    adapter_bytes: int

    @property
    def share(self) -> float:
        return self.n_trainable / self.n_base


def plan(
    model: str, methods: Iterable[str | Mapping[str, object] | Method] = (), head: TaskHead | None = None
) -> list[ParameterPlan]:
    """One plan for each method, or for every method at its defaults, on the base `model` (a folder or hub name).

    Only the config is read: a 405B base takes as long as a small one. Without a `head` a base that writes no text gets
    a classifier of two classes, which every method trains along; methods that do not act on its kind are left out
    unless named. Raises UserError for a base or method that is none, and where a method cannot act on the base.
    """
    config = load_config(model)
    kind = kind_of(config)
    head = head or (TaskHead() if kind in WRITERS else TaskHead("classes", ("0", "1")))
    head.configure(config)
    with torch.device("meta"):
        shell = head.auto_class(kind, model).from_config(config)
    n_base = sum(parameter.numel() for parameter in shell.parameters())
    chosen = [m if isinstance(m, Method) else parse_method(m) for m in methods]
    chosen = chosen or [_default(name) for name, method in METHODS.items() if kind not in method.not_on]
    plans = []
    for method in chosen:
        by_dtype = count_by_dtype(shell, method)
        n_bytes = sum(n * dtype.itemsize for dtype, n in by_dtype.items())
        plans.append(ParameterPlan(method, sum(by_dtype.values()), n_base, n_bytes))
    return plans


def _default(name: str) -> Method:
    """The method at its defaults; bitfit with added biases, so that it counts on bases that have none."""
    return parse_method({"name": name, "add": True} if "add" in METHODS[name].model_fields else name)
