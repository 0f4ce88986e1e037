"""An unchanged model whose norms, activations, gated feed-forward parts and rotations run as one kernel each.

Inside `fused` a module keeps its class, parameters and hooks; only its own arithmetic is done in one pass, packed
linear layers get their weights from a kernel, and one adds what low-rank changes make of their outputs. What is
replaced in a model is tried and not guessed: a module is left as it is unless the kernel says what it says on random
numbers.
"""

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunewise.engine import dequantised, prepacked
from tunewise.engine.native.attention import DTYPES, why_no_kernel
from tunewise.engine.native.low_rank import fits, with_low_rank
from tunewise.engine.native.rows import gated, gelu_tanh, rms_norm, rotated
from tunewise.engine.prepacked import Prepacked
from tunewise.methods.reparam import low_rank
from tunewise.models.anatomy import Anatomy, read_anatomy

SAME = {torch.float32: 1e-5, torch.bfloat16: 0.02}
"""How far a kernel may lie from the module, over the largest number: sums in another order, fewer roundings."""
ROTATION = "apply_rotary_pos_emb"
"""What transformers calls the rotation of queries and keys, in the file of each family that has one."""
ACTIVATIONS = ("silu", "gelu_tanh")
Forward = Callable[..., Any]
_ADDED = low_rank.added


@dataclass
class _Plan:
    """What stands in for what."""

    makers: dict[str, Callable[[nn.Module], Forward]] = field(default_factory=dict)
    """By the path of a module: what makes its forward of it."""
    forwards: list[tuple[nn.Module, Forward]] = field(default_factory=list)
    rotations: dict[str, Forward] = field(default_factory=dict)
    """By the name of the Python module that holds the rotation."""


_PLANS: WeakKeyDictionary[PreTrainedModel, _Plan] = WeakKeyDictionary()
_HELD: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()
"""Those that are `held`, and whether they are only asked."""


def fuse_as(model: PreTrainedModel, other: PreTrainedModel, whole: PreTrainedModel, anatomy: Anatomy) -> None:
    """Let `model`, some layers of `whole`, run on the kernels that are right for `other`, which has a module of the
    same name for each of its.

    For a model that holds no numbers, on which nothing can be tried.
    """
    if not why_no_kernel(other.device, other.dtype):
        plan = _PLANS[model] = _bound(_plan_of(other).makers, _plan_of(other).rotations, model)
        plan.forwards += prepacked.forwards(model, anatomy, whole)


def pretend_copies(model: PreTrainedModel) -> None:
    """For a model that holds no numbers: have the copies of weights by which products are made in training."""
    for by in _prepacked(model):
        by.pretend()


def _prepacked(model: PreTrainedModel) -> list[Prepacked]:
    forwards = _PLANS[model].forwards if model in _PLANS else []
    return [forward for _, forward in forwards if isinstance(forward, Prepacked)]


def _plan_of(model: PreTrainedModel) -> _Plan:
    if model not in _PLANS:
        _PLANS[model] = _plan(model)
    return _PLANS[model]


def _bound(
    makers: dict[str, Callable[[nn.Module], Forward]], rotations: dict[str, Forward], model: PreTrainedModel
) -> _Plan:
    there = {path: module for path, module in model.named_modules() if path in makers}
    return _Plan(makers, [(module, makers[path](module)) for path, module in there.items()], rotations)


@contextmanager
def held(model: PreTrainedModel, is_answering: bool = False) -> Iterator[None]:
    """Inside the block nobody but this package changes `model`: copies that products are made by last from one pass to
    the next. One that is only asked, and never trained, may have large ones."""
    before = _HELD.get(model)
    if is_answering:
        _PLANS.pop(model, None)
    _HELD[model] = is_answering
    try:
        yield
    finally:
        for by in _prepacked(model):
            by.forget()
        if is_answering:
            _PLANS.pop(model, None)
        if before is None:
            del _HELD[model]
        else:
            _HELD[model] = before


@contextmanager
def fused(model: PreTrainedModel) -> Iterator[None]:
    """Inside the block `model` runs on fused kernels where it can; without kernels it runs as it is.

    A module whose forward somebody has replaced already is left alone.
    """
    if why_no_kernel(model.device, model.dtype):
        yield
        return
    plan = _plan_of(model)
    originals = {name: vars(sys.modules[name])[ROTATION] for name in plan.rotations}
    replaced = [(module, forward) for module, forward in plan.forwards if "forward" not in vars(module)]
    for module, forward in replaced:
        module.forward = forward
    for name, rotation in plan.rotations.items():
        vars(sys.modules[name])[ROTATION] = rotation
    adding, low_rank.added = low_rank.added, _added
    try:
        yield
    finally:
        for _, by in replaced:
            if isinstance(by, Prepacked) and not (by.stays and model in _HELD):
                by.forget()
        low_rank.added = adding
        for module, _ in replaced:
            del module.forward
        for name, rotation in originals.items():
            vars(sys.modules[name])[ROTATION] = rotation


@torch.no_grad()
def _plan(model: PreTrainedModel) -> _Plan:
    was_training = model.training
    model.eval()
    anatomy = read_anatomy(model)
    makers: dict[str, Callable[[nn.Module], Forward]] = {}
    rotations: dict[str, Forward] = {}
    try:
        norms: dict[str, Callable[[nn.Module], Forward] | None] = {}
        for path, module in ((path, model.get_submodule(path)) for path in anatomy.norms):
            shapes = [tuple(parameter.shape) for parameter in module.parameters()]
            kind = f"{type(module)} {module} {shapes}"  # of those that are alike one is tried
            if kind not in norms:
                norms[kind] = _norm(module, model.dtype)
            if (made := norms[kind]) is not None:
                makers[path] = made
        makers |= {path: _as_gelu_tanh for path, module in model.named_modules() if _is_gelu_tanh(module)}
        parts = _feed_forwards(model, anatomy)
        if parts and (made := _gated(next(iter(parts.values())), model.dtype)) is not None:
            makers |= {path: partial(_of_part, made, part) for path, part in parts.items()}
        for name in dict.fromkeys(type(module).__module__ for module in model.modules()):
            original = vars(sys.modules[name]).get(ROTATION)
            rotation = None if original is None else _rotation(original, model.dtype)
            if rotation is not None:
                rotations[name] = rotation
    finally:
        model.train(was_training)
    plan = _bound(makers, rotations, model)
    plan.forwards += dequantised.forwards(model)
    plan.forwards += prepacked.forwards(model, anatomy, model, _HELD.get(model, False))
    return plan


def _added(y: Tensor, x: Tensor, a: Tensor, b: Tensor, scaling: float) -> Tensor:
    return (with_low_rank if fits(y, x, a, b) else _ADDED)(y, x, a, b, scaling)


def _as_gelu_tanh(module: nn.Module) -> Forward:
    return gelu_tanh


def _of_part(made: "Callable[[_FeedForward], Forward]", part: "_FeedForward", module: nn.Module) -> Forward:
    return made(replace(part, module=module))


def _norm(module: nn.Module, dtype: torch.dtype) -> Callable[[nn.Module], Forward] | None:
    """x · gain / √(mean(x²) + eps), the gain being the weight, or one more than that (Gemma)."""
    parameters, told = dict(module.named_parameters()), inspect.signature(type(module).forward).parameters
    if (
        len(told) != 2
        or list(parameters) != ["weight"]
        or parameters["weight"].dim() != 1
        or isinstance(module, nn.LayerNorm)
    ):
        return None
    x = _drawn(1, 7, len(parameters["weight"]), dtype=dtype)
    for eps in (value for value in vars(module).values() if isinstance(value, float)):
        for offset in (0.0, 1.0):

            def made(of: nn.Module, eps: float = eps, offset: float = offset) -> Forward:
                return lambda x: rms_norm(x, of.weight + offset if offset else of.weight, eps)

            if _is_same(made(module)(x), type(module).forward(module, x)):
                return made
    return None


@dataclass(frozen=True)
class _FeedForward:
    """A gated feed-forward part and the names of its children; gate and up have one name where they are one module."""

    module: nn.Module
    gate: str
    up: str
    down: str


def _feed_forwards(model: PreTrainedModel, anatomy: Anatomy) -> dict[str, _FeedForward]:
    """By path."""
    found = {}
    for layer in range(anatomy.n_layers):
        paths = {site.role: site.module.rpartition(".") for site in anatomy.sites if site.layer == layer}
        if {"gate", "up", "down"} <= paths.keys() and len({paths[role][0] for role in ("gate", "up", "down")}) == 1:
            names = [paths[role][2] for role in ("gate", "up", "down")]
            path = paths["gate"][0]
            found[path] = _FeedForward(model.get_submodule(path), *names)
    return found


def _gated(part: _FeedForward, dtype: torch.dtype) -> Callable[[_FeedForward], Forward] | None:
    """down(act(gate(x)) · up(x)); gate and up may be the halves of one module's output."""
    children = dict(part.module.named_children())
    if any(isinstance(child, nn.Dropout) and child.p > 0 for child in children.values()):
        return None
    x = _drawn(1, 7, children[part.gate].in_features, dtype=dtype)
    expected = type(part.module).forward(part.module, x)
    for activation in ACTIVATIONS:

        def made(of: _FeedForward, activation: str = activation) -> Forward:
            gate, up, down = (of.module.get_submodule(name) for name in (of.gate, of.up, of.down))

            def forward(x: Tensor) -> Tensor:
                halves = gate(x).chunk(2, dim=-1) if gate is up else (gate(x), up(x))
                return down(gated(*halves, activation))

            return forward

        if _is_same(made(part)(x), expected):
            return made
    return None


def _is_gelu_tanh(module: nn.Module) -> bool:
    """Whether it is the tanh form, which some families (GPT-2) write out operation by operation. Tried in float32:
    bfloat16 does not tell it from GELU itself, for which torch is as fast."""
    if "GELU" not in type(module).__name__:
        return False
    x = _drawn(1, 7, 64, dtype=torch.float32)
    return _is_same(gelu_tanh(x), type(module).forward(module, x))


def _rotation(original: Forward, dtype: torch.dtype) -> Forward | None:
    """The same function of (q, k, cos, sin), by the kernel for the one row that packed tokens are; None for another."""
    if list(inspect.signature(original).parameters)[:4] != ["q", "k", "cos", "sin"]:
        return None

    def rotation(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
        fits = unsqueeze_dim == 1 and len(q) == len(cos) == 1 and q.shape[-1] == cos.shape[-1]
        if fits and q.dtype == cos.dtype == sin.dtype and q.dtype in DTYPES:
            return rotated(q, cos, sin), rotated(k, cos, sin)
        return original(q, k, cos, sin, unsqueeze_dim=unsqueeze_dim)

    q, k = _drawn(1, 4, 5, 8, dtype=dtype), _drawn(1, 2, 5, 8, dtype=dtype)
    cos, sin = _drawn(1, 5, 8, dtype=dtype), _drawn(1, 5, 8, dtype=dtype) + 1
    try:
        expected = original(q, k, cos, sin)
    except RuntimeError:  # it is given another layout of angles
        return None
    same = all(_is_same(*pair) for pair in zip(rotation(q, k, cos, sin), expected, strict=True))
    return rotation if same else None


def _drawn(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def _is_same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and float((one - other).abs().max() / other.abs().max()) < SAME[one.dtype]
