"""A delta at work: the forward hooks by which it acts at its site, and which models carry a method already."""

import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from tunewise.errors import UserError
from tunewise.methods.among_experts import Lending
from tunewise.methods.base import Delta
from tunewise.models.anatomy import MIXTURE, Site
from tunewise.models.weights import frozen_weight

Acts = Callable[[], tuple[Hashable, list[RemovableHandle]]]
"""What tells a method that is attached from another one, and the hooks by which it acts."""
_CARRIED: "weakref.WeakKeyDictionary[PreTrainedModel, tuple[str, Acts]]" = weakref.WeakKeyDictionary()

Before = Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]
After = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]


@dataclass(frozen=True)
class Acting:
    """What a delta does to what enters (None: nothing) and what leaves the module of its site."""

    module: str
    delta: Delta
    before: Before | None
    after: After
    is_whole: bool
    """Whether `after` is all it does, and to the whole of what leaves the module."""
    scale: Callable[[], float]
    """λ as it is now."""
    gives_back: bool = False
    """Whether `before` lends the module something that `after` takes back, though the module has failed."""

    def install(self, model: PreTrainedModel) -> list[RemovableHandle]:
        """Let it act wherever the module is called."""
        module = model.get_submodule(self.module)
        entering = [] if self.before is None else [module.register_forward_pre_hook(self.before)]
        return [*entering, module.register_forward_hook(self.after, always_call=self.gives_back)]


def acting(model: PreTrainedModel, site: Site, delta: Delta, scale: Callable[[], float]) -> Acting:
    """`delta` at `site`, as far as the present `scale` λ lets it: y + λ·(after(x, y) − y)."""
    if site.n_experts:
        parents = [site.module.rsplit(".", n)[0] for n in range(1, site.module.count("."))]
        lending = Lending(site, delta, scale, [model.get_submodule(path) for path in parents])
        return Acting(site.module, delta, lending.enter, lending.leave, is_whole=False, scale=scale, gives_back=True)
    changes_input = type(delta).before is not Delta.before
    given: list[Tensor] = []  # the token ids that `before` changes: `after` puts vectors in the place of some

    def enter(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = args[0]
        if not x.is_floating_point():  # no dial lies between
            given.append(x)
            return (delta.before(x), *args[1:])
        if scale() == 0.0:
            return args
        moved = delta.before(x)
        return (moved if scale() == 1.0 else torch.lerp(x, moved, scale()), *args[1:])

    def leave(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        x = given.pop() if given else args[0]
        if scale() == 0.0:
            return None
        if delta.training != module.training:  # model.train() and .eval() do not reach outside the module tree
            delta.train(module.training)
        y = site.read(output)
        tuned = delta.after(x, y)
        if site.is_slice and changes_input:  # its neighbours in the module see x as it is
            weight, _ = frozen_weight(model, site)
            tuned = y + functional.linear(delta.before(x) - x, weight)
        if scale() != 1.0:
            tuned = y + scale() * (tuned - y)
        return site.write(output, tuned)

    is_whole = not (changes_input or site.is_slice or site.heads_first)
    after = _of_first(leave) if site.role == MIXTURE else leave
    return Acting(site.module, delta, enter if changes_input and not site.is_slice else None, after, is_whole, scale)


def _of_first(leave: After) -> After:
    """The same for a module that says something else beside its output, as some mixtures say where tokens went."""

    def first(module: nn.Module, args: tuple[Tensor, ...], output: Any) -> Any:
        if not isinstance(output, tuple):
            return leave(module, args, output)
        changed = leave(module, args, output[0])
        return None if changed is None else (changed, *output[1:])

    return first


def occupy(model: PreTrainedModel, name: str, acts: Acts = lambda: (None, [])) -> None:
    """Note that `name` is attached to `model`, and how it acts; UserError where something is."""
    refuse_a_second(model)
    _CARRIED[model] = name, acts


def vacate(model: PreTrainedModel) -> None:
    """Note that nothing is attached any more."""
    _CARRIED.pop(model, None)


def acts_on(model: PreTrainedModel) -> Hashable:
    """What acts on `model` beside its weights: the same for methods of the same fields, whatever they have learned.

    All other hooks are numbered through, so that theirs tell.
    """
    told, handles = _CARRIED[model][1]() if model in _CARRIED else (None, [])
    own = {handle.id for handle in handles}
    by_module = [(module._forward_pre_hooks, module._forward_hooks) for module in model.modules()]
    hooks = [number for before, behind in by_module for number in (*before, *behind)]
    others = tuple(number for number in hooks if number not in own)
    return None if len(others) == len(hooks) else told, others


def refuse_a_second(model: PreTrainedModel) -> None:
    """UserError where something is attached to `model`, and for what is no model of transformers."""
    if not isinstance(model, PreTrainedModel):
        raise UserError(
            f"{type(model).__name__} is no model of transformers",
            "of what load_base returns, give base.model; of one that peft has wrapped, what model.unload() returns",
        )
    if model in _CARRIED:
        raise UserError(f"this model already carries {_CARRIED[model][0]!r}", hint="call .detach() on that one first")
