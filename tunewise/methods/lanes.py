"""Lanes: several tuned objects on one base at once, each on its own part of a batch.

The base computes all parts together. At every site each part meets its own lane's deltas, and where a lane trains
tensors of the base itself, its part is computed with its own. No lane sees another, so each has the outputs and the
gradients that it has alone.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunewise.methods.acting import Acting, occupy, vacate
from tunewise.methods.alone import CannotShare, has_dropout, why_not_a_lane
from tunewise.methods.attach import Tuned
from tunewise.models.replaced import replaced

Where = Literal["everywhere", "last layer", "answers", "head"]

FEW = 512
"""Tokens of unlike parts up to which laying them out as if they were alike costs less than a product for each."""


@dataclass(frozen=True)
class Part:
    """What lane number `lane` owns of a batch: so many rows, or tokens of the only row, and of what a head is given."""

    lane: int
    size: int
    head_size: int
    padding: int = 0
    """Columns of padding before its own, which it has not when it is alone."""
    head_padding: int = 0
    written_size: int = 0
    """Tokens of the row of answers that a decoder over an encoder is given."""
    read_size: int = 0
    """Of packed rows, the tokens of which the last layer makes something."""

    def size_where(self, where: Where) -> int:
        sizes = {"everywhere": self.size, "last layer": self.read_size, "answers": self.written_size}
        return self.head_size if where == "head" else sizes[where]


@dataclass(frozen=True)
class Parts:
    """The parts of one batch in their order along dimension `dim`; what is behind the last belongs to no lane."""

    dim: int
    parts: tuple[Part, ...]
    n_written: int = 0
    """Tokens of the row of answers, where there is one: never as many as of the row of prompts."""


class Draws:
    """A lane's generator of random numbers: torch's own inside the block, put aside again behind it."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._device = device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            self._state = self._read()

    def __enter__(self) -> None:
        self._outer = self._read()
        self._write(self._state)

    def __exit__(self, *_: object) -> None:
        self._state = self._read()
        self._write(self._outer)

    def _read(self) -> tuple[Tensor, Tensor | None]:
        is_cuda = self._device.type == "cuda"
        return torch.get_rng_state(), torch.cuda.get_rng_state(self._device) if is_cuda else None

    def _write(self, states: tuple[Tensor, Tensor | None]) -> None:
        torch.set_rng_state(states[0])
        if states[1] is not None:
            torch.cuda.set_rng_state(states[1], self._device)


class Lanes:
    """`tuned`, all detached, side by side on their base inside the block; behind it they are detached as before.

    Inside, each is `beside` the base (its `trainable` and `state` are its own), the base acts as itself, and within
    `at(parts)` each part of a batch as its lane makes it. `draws` holds a generator for each lane, from which its
    dropout is drawn. Raises UserError while a method is attached, and CannotShare for a method that acts on whole
    stacks.
    """

    def __init__(self, tuned: Sequence[Tuned], draws: Sequence[Draws]) -> None:
        self.tuned, self.draws = tuple(tuned), tuple(draws)
        self.model: PreTrainedModel = tuned[0].model
        self._parts: Parts | None = None
        self.has_dropout = [has_dropout(each) for each in tuned]
        anatomy = tuned[0].anatomy
        paths = [] if anatomy.head is None else [anatomy.head.module]
        paths += [name.rpartition(".")[0] for name in anatomy.task_head]
        self._heads = {self.model.get_submodule(path) for path in paths}
        self._heads_first = {self.model.get_submodule(path) for path in anatomy.norms_heads_first}

    def __enter__(self) -> "Lanes":
        for each in self.tuned:
            reason = why_not_a_lane(each)
            if reason:
                raise CannotShare(reason)
        occupy(self.model, " beside ".join(dict.fromkeys(each.method.name for each in self.tuned)))
        with ExitStack() as stack:
            stack.callback(vacate, self.model)
            _ON[self.model] = self
            stack.callback(_ON.pop, self.model)
            flags = {parameter: parameter.requires_grad for parameter in self.model.parameters()}
            stack.callback(lambda: [parameter.requires_grad_(flag) for parameter, flag in flags.items()])
            self.model.requires_grad_(False)
            for each in self.tuned:
                stack.enter_context(each.beside())
            for handle in self._hooks():
                stack.callback(handle.remove)
            for module, forward in self._forwards():
                stack.enter_context(replaced(module, "forward", forward))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextmanager
    def at(self, parts: Parts) -> Iterator[None]:
        """Inside the block what the model is given consists of these parts."""
        self._parts = parts
        try:
            yield
        finally:
            self._parts = None

    def ends(self) -> list[int]:
        """Where the part of each lane ends among the tokens of the only row."""
        assert self._parts is not None
        return list(accumulate(part.size for part in self._parts.parts))

    @contextmanager
    def given(self, sizes: Sequence[int]) -> Iterator[None]:
        """Inside the block modules are given, in the place of tokens, so many rows (of (rows, d)) for each part."""
        parts = self._parts
        assert parts is not None
        self._parts = Parts(0, tuple(Part(each.lane, n, n) for each, n in zip(parts.parts, sizes, strict=True)))
        try:
            yield
        finally:
            self._parts = parts

    @contextmanager
    def only(self, tuned: Tuned) -> Iterator[None]:
        """Inside the block the base carries this one alone, as if there were no lanes."""
        parts, self._parts = self._parts, None
        try:
            with tuned.lent():
                yield
        finally:
            self._parts = parts

    def _hooks(self) -> Iterator[torch.utils.hooks.RemovableHandle]:
        by_module: dict[str, dict[int, list[Acting]]] = {}
        for number, each in enumerate(self.tuned):
            for act in each.acts():
                by_module.setdefault(act.module, {}).setdefault(number, []).append(act)
        for path, acts in by_module.items():
            module = self.model.get_submodule(path)
            if any(act.before for of_lane in acts.values() for act in of_lane):
                yield module.register_forward_pre_hook(self._enter(acts))
            yield module.register_forward_hook(self._leave(acts))

    def _enter(self, acts: dict[int, list[Acting]]) -> Callable:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            if self._parts is None:
                return None

            def entering(number: int, x: Tensor) -> Tensor:
                for act in acts[number]:
                    if act.before is not None:
                        (x,) = act.before(module, (x,))
                return x

            return (self._by_lane(module, acts, entering, args[0]), *args[1:])

        return hook

    def _leave(self, acts: dict[int, list[Acting]]) -> Callable:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Any) -> Any:
            if self._parts is None:
                return None
            if isinstance(output, tuple):  # of some mixtures of experts
                return (hook(module, args, output[0]), *output[1:])
            stacked = self._stacked(module, acts, args[0], output)
            if stacked is not None:
                return stacked

            def leaving(number: int, y: Tensor, x: Tensor) -> Tensor:
                for act in acts[number]:
                    found = act.after(module, (x,), y)
                    y = y if found is None else found
                return y

            return self._by_lane(module, acts, leaving, output, args[0])

        return hook

    def _stacked(self, module: nn.Module, acts: dict[int, list[Acting]], x: Tensor, y: Tensor) -> Tensor | None:
        """All lanes at once by batched products, where their deltas are alike and their parts of one size, or few."""
        assert self._parts is not None
        dim, where = self._place(module, y)
        found = [acts.get(part.lane, []) for part in self._parts.parts]
        if len(found) < 2 or any(len(of_lane) != 1 or not of_lane[0].is_whole for of_lane in found):
            return None
        deltas = [act.delta for (act,) in found]
        for delta in deltas:  # which are outside of the module tree; one that draws is not stacked
            if delta.training != module.training:
                delta.train(module.training)
        keys = {delta.stack_key() for delta in deltas}
        if len(keys) > 1 or None in keys or x.shape[dim] != y.shape[dim]:
            return None
        flat_x, flat_y = (tensor.reshape(-1, tensor.shape[-1]) for tensor in (x, y))
        times = 1 if dim else len(flat_y) // len(y)
        sizes = [times * part.size_where(where) for part in self._parts.parts]
        is_even, total = len(set(sizes)) == 1, sum(sizes)
        if not (is_even or total <= FEW) or total > len(flat_y) or len(flat_x) != len(flat_y):
            return None
        parts_x, parts_y = (_laid_out(flat[:total], sizes, is_even) for flat in (flat_x, flat_y))
        changed = deltas[0].stacked(deltas, parts_x, parts_y)
        changed = _scaled(parts_y, changed, [act.scale() for (act,) in found])
        if is_even:
            told = changed.reshape(total, -1)
        else:
            told = torch.cat([of_lane[:size] for of_lane, size in zip(changed, sizes, strict=True)])
        return (told if total == len(flat_y) else torch.cat([told, flat_y[total:]])).view(y.shape)

    def _by_lane(
        self, module: nn.Module, lanes: dict[int, Any], change: Callable[..., Tensor], *tensors: Tensor
    ) -> Tensor:
        """The first of `tensors` with the parts of `lanes` changed: `change(lane, part of each tensor)`."""
        dim, where = self._place(module, tensors[0])
        parts, pieces = self._split(module, lanes, *tensors)
        if not any(part is not None for part in parts):
            return tensors[0]
        made = []
        for part, piece in zip(parts, pieces, strict=True):
            if part is None:
                made.append(piece[0])
                continue
            padding = {"everywhere": part.padding, "head": part.head_padding}.get(where, 0)
            if not (self.has_dropout[part.lane] and module.training):
                made.append(change(part.lane, *piece))
                continue
            own = [tensor[:, padding:] for tensor in piece]  # a mask is drawn in the shape that it has alone
            with self.draws[part.lane]:
                changed = change(part.lane, *own)
            made.append(torch.cat([piece[0][:, :padding], changed], dim=1) if padding else changed)
        return torch.cat(made, dim=dim)

    def _split(
        self, module: nn.Module, lanes: dict[int, Any], *tensors: Tensor
    ) -> tuple[list[Part | None], list[tuple[Tensor, ...]]]:
        """Each part of a lane in `lanes`, or None for what lies between, with the pieces of all tensors there."""
        assert self._parts is not None
        dim, where = self._place(module, tensors[0])
        found: list[Part | None] = []
        sizes: list[int] = []
        for part in self._parts.parts:
            size = part.size_where(where)
            if part.lane in lanes or not found or found[-1] is not None:
                found.append(part if part.lane in lanes else None)
                sizes.append(size)
            else:
                sizes[-1] += size
        behind = tensors[0].shape[dim] - sum(sizes)
        whole = {tensor.shape[dim] for tensor in tensors}
        if behind < 0 or len(whole) > 1 or (behind and dim == 0):
            raise CannotShare(f"a {type(module).__name__} does not see the parts of a batch side by side")
        if behind:
            found.append(None)
            sizes.append(behind)
        return found, list(zip(*(tensor.split(sizes, dim) for tensor in tensors), strict=True))

    def _forwards(self) -> Iterator[tuple[nn.Module, Callable[..., Any]]]:
        """Each module that holds a tensor which a lane has of its own, and what it computes instead."""
        own: dict[nn.Module, dict[int, dict[str, nn.Parameter]]] = {}
        numbers: dict[Tensor, list[tuple[int, nn.Parameter]]] = {}
        for number, each in enumerate(self.tuned):
            for name, parameter in each.selected.items():
                numbers.setdefault(self.model.get_parameter(name), []).append((number, parameter))
        for module in self.model.modules():  # a tied tensor is in several
            for leaf, parameter in module._parameters.items():
                for number, beside in numbers.get(parameter, ()) if parameter is not None else ():
                    own.setdefault(module, {}).setdefault(number, {})[leaf] = beside
        for module, of_lanes in own.items():
            yield module, self._with_own(module, of_lanes)

    def _with_own(self, module: nn.Module, own: dict[int, dict[str, nn.Parameter]]) -> Callable[..., Any]:
        forward = module.forward

        def separately(*args: Any, **kwargs: Any) -> Any:
            if self._parts is None or not any(part.lane in own for part in self._parts.parts):
                return forward(*args, **kwargs)
            if not args or any(isinstance(more, Tensor) for more in (*args[1:], *kwargs.values())):
                raise CannotShare(f"a {type(module).__name__} is given more than one tensor")
            made = []
            for part, (x,) in zip(*self._split(module, own, args[0]), strict=True):
                with _with_parameters(module, {} if part is None else own[part.lane]):
                    made.append(forward(x, *args[1:], **kwargs))
            return torch.cat(made, dim=self._place(module, args[0])[0])

        return separately

    def _place(self, module: nn.Module, tensor: Tensor) -> tuple[int, Where]:
        """The dimension along which the parts lie in what passes this module, and where in the model that is."""
        assert self._parts is not None
        dim, n_written = self._parts.dim, self._parts.n_written
        if dim == 1 and module in self._heads_first:  # (1, heads, tokens, d_head)
            return 2, "everywhere"
        is_gathered = len(tensor) > 1 or (tensor.dim() == 2 and tensor.is_floating_point())
        if dim == 1 and is_gathered:  # of packed rows, what was gathered from each for a classifier or the head
            if n_written and module not in self._heads:
                raise CannotShare(f"a {type(module).__name__} is given what is no token of a row")
            return 0, "head"
        if module in self._heads:
            return dim, "head"
        if n_written:
            return dim, "answers" if tensor.shape[1] == n_written else "everywhere"
        is_less = dim == 1 and tensor.shape[1] < sum(part.size for part in self._parts.parts)
        return dim, "last layer" if is_less else "everywhere"


_ON: WeakKeyDictionary[PreTrainedModel, Lanes] = WeakKeyDictionary()


def lanes_on(model: PreTrainedModel) -> Lanes | None:
    """The lanes of the batch that `model` computes at this moment; None where it computes for one alone."""
    lanes = _ON.get(model)
    return None if lanes is None or lanes._parts is None else lanes


def _laid_out(flat: Tensor, sizes: Sequence[int], is_even: bool) -> Tensor:
    """(n, length, d) of n parts of these sizes behind one another, zeros behind those that are shorter."""
    if is_even:
        return flat.reshape(len(sizes), sizes[0], flat.shape[-1])
    return nn.utils.rnn.pad_sequence(flat.split(list(sizes)), batch_first=True)


def _scaled(y: Tensor, changed: Tensor, scales: Sequence[float]) -> Tensor:
    """y + λ·(changed − y) for parts (n, length, d_out) with a λ each, rounded as `acting` does it for one."""
    if all(scale == 1.0 for scale in scales):
        return changed
    wide = torch.tensor(scales, dtype=torch.promote_types(y.dtype, torch.float32), device=y.device)[:, None, None]
    return torch.where(wide == 1.0, changed, y + (wide * (changed - y)).to(y.dtype))


@contextmanager
def _with_parameters(module: nn.Module, parameters: dict[str, nn.Parameter]) -> Iterator[None]:
    kept = {name: module._parameters[name] for name in parameters}
    module._parameters.update(parameters)
    try:
        yield
    finally:
        module._parameters.update(kept)
