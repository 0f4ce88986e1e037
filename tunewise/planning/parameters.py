"""Trainable parameters and adapter size of each method on a base, counted on the meta device from its config alone."""

from dataclasses import dataclass

from tunewise.methods import METHODS, parse_method
from tunewise.methods.attach import count_by_dtype
from tunewise.methods.base import Method
from tunewise.planning.shell import Shell


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


def count_on(shell: Shell, method: Method) -> ParameterPlan:
    """What `method` would train on the base of this shell."""
    by_dtype = count_by_dtype(shell.model, method)
    n_bytes = sum(n * dtype.itemsize for dtype, n in by_dtype.items())
    return ParameterPlan(method, sum(by_dtype.values()), shell.n_parameters, n_bytes)


def defaults_on(shell: Shell) -> list[Method]:
    """Every method that acts on a base of this kind, at its defaults."""
    return [_default(name) for name, method in METHODS.items() if not shell.refuses(method.not_on)]


def _default(name: str) -> Method:
    """The method at its defaults; bitfit with added biases, so that it counts on bases that have none."""
    return parse_method({"name": name, "add": True} if "add" in METHODS[name].model_fields else name)
