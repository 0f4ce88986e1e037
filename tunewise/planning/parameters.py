"""Trainable parameters and adapter size of each method on a base, counted on the meta device from its config alone."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tunewise.methods import METHODS, parse_method
from tunewise.methods.attach import count_by_dtype
from tunewise.methods.base import Method
from tunewise.models.heads import TaskHead
from tunewise.planning.shell import Shell, shell_of


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

    Methods that do not act on a base of its kind are left out unless named. Raises UserError for a base or method that
    is none, and where a method cannot act on the base.
    """
    shell = shell_of(model, head)
    chosen = [m if isinstance(m, Method) else parse_method(m) for m in methods] or defaults_on(shell)
    return [count_on(shell, method) for method in chosen]


def count_on(shell: Shell, method: Method) -> ParameterPlan:
    """What `method` would train on the base of this shell."""
    by_dtype = count_by_dtype(shell.model, method)
    n_bytes = sum(n * dtype.itemsize for dtype, n in by_dtype.items())
    return ParameterPlan(method, sum(by_dtype.values()), shell.n_parameters, n_bytes)


def defaults_on(shell: Shell) -> list[Method]:
    """Every method that acts on a base of this kind, at its defaults."""
    return [_default(name) for name, method in METHODS.items() if shell.kind not in method.not_on]


def _default(name: str) -> Method:
    """The method at its defaults; bitfit with added biases, so that it counts on bases that have none."""
    return parse_method({"name": name, "add": True} if "add" in METHODS[name].model_fields else name)
