"""Attaching a method to a base: `attach(model, LoRA(rank=8)) -> Tuned`. What all methods share is written here once."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tunewise.errors import UserError
from tunewise.methods.acting import Acting, acting, occupy, refuse_a_second, vacate
from tunewise.methods.alike import alike
from tunewise.methods.base import SERVE, CannotFold, Delta, Method, Start
from tunewise.methods.reach import added_by, anatomy_for, delta_dtype, n_trained, selected_by, sites_by_name
from tunewise.models.anatomy import MIXTURE, Anatomy, Site
from tunewise.models.aside import bytes_of, is_large, put_aside
from tunewise.models.quantise import ROUTES, cannot_write, is_quantised, keep_layout
from tunewise.models.weights import bytes_at_rest, dense_weight, frozen_weight, set_dense_weight


def attach(
    model: PreTrainedModel,
    method: Method,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    losses: Callable[[], Iterable[Tensor]] | None = None,
    seed: int = 0,
    warm_start: bool = True,
) -> "Tuned":
    """Freeze `model` and put `method` on it, initialised from `seed`; the global generator is left as it was.

    The model keeps its class, module tree and key names, so whatever drives a transformers model drives it tuned.
    `tokenizer` is needed by methods that start from text, `losses` (the base's loss on one training example after
    another) by those that look at gradients first. Without `warm_start` the starting values that depend on these are
    left out, for a state that is loaded next. A classifier on top of the base is trained by every method but
    `frozen`. Raises UserError when a method is attached already, does not act on this kind of model, or asks for a
    site that the base lacks.
    """
    if not isinstance(method, Method):
        raise UserError(f"{method!r} is no method", "give one such as tunewise.LoRA(rank=4)")
    refuse_a_second(model)
    keep_layout(model)
    anatomy = anatomy_for(method, model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        deltas = dict(method.deltas(anatomy))
        sites = sites_by_name(anatomy)
        for name, delta in deltas.items():
            stored = next(model.get_submodule(sites[name].module).parameters())
            delta.to(device=stored.device, dtype=delta_dtype(model.dtype))
            delta.bind(partial(frozen_weight, model, sites[name]))
        if warm_start:
            method.warm_start(Start(model, anatomy, tokenizer, losses), deltas)
    return Tuned(model, method, anatomy, deltas)


def count(model: PreTrainedModel, method: Method) -> int:
    """How many values `method` would train on `model`, which may live on the `meta` device; nothing is allocated."""
    return sum(count_by_dtype(model, method).values())


def count_by_dtype(model: PreTrainedModel, method: Method) -> dict[torch.dtype, int]:
    """The same, by the precision the values are kept and saved in."""
    anatomy = anatomy_for(method, model)
    with torch.device("meta"):
        added = added_by(method.deltas(anatomy))
    counts = {delta_dtype(model.dtype): n_trained(added)}
    for parameter in selected_by(model, method, anatomy).values():
        counts[parameter.dtype] = counts.get(parameter.dtype, 0) + parameter.numel()
    return counts


def reach(model: PreTrainedModel, method: Method) -> tuple[tuple[str, ...], dict[str, nn.Parameter]]:
    """The sites where `method` would add something to `model`, and the model's tensors it would train, by name."""
    anatomy = anatomy_for(method, model)
    with torch.device("meta"):
        sites = tuple(method.deltas(anatomy))
    return sites, selected_by(model, method, anatomy)


class Tuned:
    """A base with one method attached.

    `scale` λ sets how much of it acts: y + λ·(after(x, y) − y) at every site and θ₀ + λ·(θ − θ₀) for selected
    tensors, so 0 is the base, bit for bit, and 1 the tuned model. A soft prompt has no dial between: at 0 the
    virtual tokens are left out, at every other λ they are there, scaled.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        method: Method,
        anatomy: Anatomy,
        deltas: dict[str, Delta],
        put_aside: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = put_aside,
    ) -> None:
        self.model = model
        self.method = method
        self.anatomy = anatomy
        self.deltas = deltas
        self._sites = sites_by_name(anatomy)
        self.selected = selected_by(model, method, anatomy)
        self._original = put_aside(self.selected)
        self._set_aside: dict[str, Tensor] = {}  # the tuned values of selected tensors while λ is not 1
        self._scale = 1.0
        self._required_grad = {name: p.requires_grad for name, p in model.named_parameters()}
        self._put_on()

    @property
    def trainable(self) -> dict[str, nn.Parameter]:
        """Every tensor being trained, by a stable name.

        `base.<name in the model>`, `delta.<site>.<name>`, or `shared.<name>` where all deltas share it.
        """
        return {name: tensor for name, tensor in self._kept().items() if isinstance(tensor, nn.Parameter)}

    def _kept(self) -> dict[str, Tensor]:
        """Every tensor that makes the method what it is: the trained ones, and the deltas' persistent buffers."""
        return {**{f"base.{name}": parameter for name, parameter in self.selected.items()}, **added_by(self.deltas)}

    def original(self, name: str) -> Tensor:
        """What a selected tensor of the base was before it was trained, to be read only."""
        return self._original[name].to(self.selected[name].device)

    @property
    def held_bytes(self) -> int:
        """In memory: of the base's weights, of what its deltas hold, and of originals that are not on the disk."""
        added = [tensor for delta in self.deltas.values() for tensor in (*delta.parameters(), *delta.buffers())]
        originals = () if is_large(bytes_of(self.selected)) else self._original.values()
        return bytes_at_rest(self.model, (*added, *originals))

    def site(self, name: str) -> Site:
        """The site of that name."""
        return self._sites[name]

    @property
    def n_trainable(self) -> int:
        return sum(parameter.numel() for parameter in self.trainable.values())

    @property
    def prefix_ids(self) -> tuple[int, ...]:
        """Virtual token ids that every sequence must begin with; none while the method is off."""
        return () if self._scale == 0 else self.method.prefix_ids(self.anatomy)

    def state(self) -> dict[str, Tensor]:
        """The tuned values, detached and copied: everything an adapter file holds."""
        return {name: value.clone() for name, value in self.values().items()}

    def values(self) -> dict[str, Tensor]:
        """The same, not copied: to be read only, before the next step."""
        aside = {f"base.{name}": value for name, value in self._set_aside.items()}
        return {name: aside.get(name, tensor).detach() for name, tensor in self._kept().items()}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Set every tensor of `state()`; raises UserError unless names and shapes are exactly this method's."""
        for site, delta in self.deltas.items():
            delta.take_shapes(
                {name: state[key] for name in delta.state_dict() if (key := f"delta.{site}.{name}") in state}
            )
        own = self._kept()
        missing, extra = own.keys() - state.keys(), state.keys() - own.keys()
        if missing or extra:
            raise UserError(
                f"these are not the tensors of {self.method.name!r}: {len(missing)} missing "
                f"({', '.join(sorted(missing)[:3])}), {len(extra)} unknown ({', '.join(sorted(extra)[:3])})",
                hint="load the adapter with the method it was saved from: tunewise.load_adapter(model, folder)",
            )
        wrong = [name for name in own if own[name].shape != state[name].shape]
        if wrong:
            raise UserError(
                f"{wrong[0]} has shape {tuple(state[wrong[0]].shape)}, this base needs {tuple(own[wrong[0]].shape)}",
                hint="the adapter belongs to a base of another size",
            )
        scale = self._scale
        self.scale = 1.0
        for name, parameter in own.items():
            parameter.copy_(state[name])
        self.scale = scale

    def settle(self) -> None:
        """Drop what only training needs: prompts stay as their encoders wrote them, and are what is saved."""
        for delta in self.deltas.values():
            delta.settle()

    def settled_state(self) -> dict[str, Tensor]:
        """`state()` as it would be once settled; nothing changes here."""
        settled = [delta for delta in self.deltas.values() if type(delta).settle is Delta.settle]
        deltas = alike(self.deltas, self.model, same=settled)
        for delta in deltas.values():
            delta.settle()
        kept = {name: value.clone() for name, value in self.values().items() if name.startswith("base.")}
        return kept | {name: tensor.detach().clone() for name, tensor in added_by(deltas).items()}

    @property
    def scale(self) -> float:
        return self._scale

    @scale.setter
    @torch.no_grad()
    def scale(self, value: float) -> None:
        if not math.isfinite(value):
            raise UserError(f"the scale of a method cannot be {value}", "give a number: 0 is the base, 1 the method")
        if self._scale == 1.0 and value != 1.0:
            self._set_aside = {name: p.detach().clone() for name, p in self.selected.items()}
        for name, parameter in self.selected.items():
            if value == 0.0:
                parameter.copy_(self._original[name])
            elif self._set_aside:
                tuned = self._set_aside[name]
                parameter.copy_(tuned if value == 1.0 else torch.lerp(self.original(name), tuned, value))
        if value == 1.0:
            self._set_aside = {}
        self._scale = float(value)

    def off(self) -> None:
        self.scale = 0.0

    def on(self) -> None:
        self.scale = 1.0

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The base inside the block; λ as it was after it."""
        scale = self.scale
        self.off()
        try:
            yield
        finally:
            self.scale = scale

    def detach(self) -> PreTrainedModel:
        """Take everything off: the model is the base again, bit for bit, with its own `requires_grad` flags."""
        self.off()
        for hook in self._hooks:
            hook.remove()
        _with_flags(self.model, self._required_grad).zero_grad()
        vacate(self.model)
        return self.model

    def reattach(self) -> "Tuned":
        """Put on again what was detached, with the values it had; UserError while another method is there."""
        self._put_on()
        self.on()
        return self

    def _put_on(self) -> None:
        fields = str(self.method.configuration())
        occupy(self.model, self.method.name, lambda: ((fields, self._scale == 0.0), self._hooks))
        self.model.requires_grad_(False)
        for parameter in self.trainable.values():
            parameter.requires_grad_(True)
        self._hooks = self._install()

    def fold(self) -> PreTrainedModel:
        """A new model whose own weights act as base and method together, at the present λ; this one is untouched.

        Raises CannotFold where no such weights exist: deltas that are not linear, tied embeddings, quantised bases.
        """
        self._refuse_what_cannot_be_written()
        folded = self._copy_of_model()
        for site, weight, bias in self._folded_weights():
            set_dense_weight(folded, site, weight, bias)
        return folded

    def _refuse_what_cannot_be_written(self) -> None:
        modules = [self._sites[name].module for name in self.deltas]
        quantised = [module for module in modules if is_quantised(self.model.get_submodule(module))]
        if quantised:
            raise CannotFold(cannot_write(quantised[0]), hint=ROUTES)
        whole = [name for name in self.deltas if self._sites[name].role == MIXTURE]
        if whole:
            raise CannotFold(f"{whole[0]} is a mixture of experts and has no equivalent dense weight", SERVE)
        tied = [
            name
            for name, delta in self.deltas.items()
            if self._sites[name].role in ("embedding", "head") and self.anatomy.head_is_tied
            if type(delta).fold is not Delta.fold  # virtual tokens, say, fold nowhere
        ]
        if tied:
            raise CannotFold(
                f"the {tied[0]} of this base is tied to its other end: a weight folded there would change both",
                hint=SERVE,
            )

    @contextmanager
    def folded(self) -> Iterator[PreTrainedModel]:
        """The base with the method in its own weights inside the block, and no hook at work; no second model is made.

        Behind it the weights are the kept originals, bit for bit, and the method is attached as it was. Raises
        CannotFold as `fold` does.
        """
        self._refuse_what_cannot_be_written()
        modules = {self.model.get_submodule(self._sites[name].module) for name in self.deltas}
        kept = {p: p.detach().clone() for module in modules for p in module.parameters(recurse=False)}
        for hook in self._hooks:
            hook.remove()
        try:
            for site, weight, bias in self._folded_weights():
                set_dense_weight(self.model, site, weight, bias)
            yield self.model
        finally:
            with torch.no_grad():
                for parameter, original in kept.items():
                    parameter.copy_(original)
            self._hooks = self._install()

    def _folded_weights(self) -> Iterator[tuple[Site, Tensor, Tensor | None]]:
        """Each site with the dense weight and bias that act as the base and its delta do, at the present λ."""
        for name, delta in self.deltas.items():
            weight, bias = dense_weight(self.model, self._sites[name])
            wide = weight.to(delta_dtype(weight.dtype))
            new_weight, new_bias = delta.fold(wide, None if bias is None else bias.to(wide))
            weight = torch.lerp(wide, new_weight, self._scale)
            if new_bias is not None:
                old = torch.zeros_like(new_bias) if bias is None else bias.to(wide)
                new_bias = torch.lerp(old, new_bias, self._scale)
            yield self._sites[name], weight, new_bias

    def _copy_of_model(self) -> PreTrainedModel:
        for hook in self._hooks:
            hook.remove()
        gradients = {name: p.grad for name, p in self.selected.items()}
        for parameter in self.selected.values():
            parameter.grad = None
        try:
            return _with_flags(copy.deepcopy(self.model), self._required_grad)
        finally:
            self._hooks = self._install()
            for name, parameter in self.selected.items():
                parameter.grad = gradients[name]

    def acts(self) -> list[Acting]:
        """Its deltas at work, in the order in which they are put on."""
        return [
            acting(self.model, self._sites[name], delta, lambda: self._scale) for name, delta in self.deltas.items()
        ]

    def _install(self) -> list[torch.utils.hooks.RemovableHandle]:
        handles = list(self.method.hooks(self.model, self.anatomy, self.deltas, lambda: self._scale != 0.0))
        return handles + [handle for act in self.acts() for handle in act.install(self.model)]

    @contextmanager
    def beside(self) -> Iterator[None]:
        """For one that is detached: inside the block the base's tensors that it trains are parameters beside the base.

        `trainable`, `selected`, `state` and `load_state` speak of those; the base itself carries nothing.
        """
        own = self.selected
        self.selected = {name: nn.Parameter(value.clone()) for name, value in self._set_aside.items()}
        self._set_aside, self._scale = {}, 1.0
        try:
            yield
        finally:
            self._set_aside = {name: parameter.detach() for name, parameter in self.selected.items()}
            self.selected, self._scale = own, 0.0

    @contextmanager
    def lent(self) -> Iterator[None]:
        """For one that is beside the base: inside the block it acts on the base, alone; its parameters stay beside."""
        with torch.no_grad():
            for name, parameter in self.selected.items():
                self.model.get_parameter(name).copy_(parameter)
        hooks = self._install()
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            with torch.no_grad():
                for name in self.selected:
                    self.model.get_parameter(name).copy_(self._original[name])


def _with_flags(model: PreTrainedModel, required_grad: Mapping[str, bool]) -> PreTrainedModel:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(required_grad[name])
    return model
