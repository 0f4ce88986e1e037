"""The frozen trunk: the layers of a tuned model that run before anything that is trained or attached.

What leaves it depends on a row alone, so it can be computed once (`from_trunk`). Inside `Trunk.entered` an unchanged
transformers model takes what entered its first live module from outside:

    a live layer      the layers below hand on what they are given, and its input is replaced; the model still makes
                      masks, positions and rotations from the ids
    a live head       the module that holds the layers is left out, and the input of the head is replaced
    a live decoder    of an encoder-decoder: what the encoder would give out is replaced
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from tunewise.methods.attach import Tuned
from tunewise.methods.base import Method
from tunewise.models.families import ENCODER_DECODER
from tunewise.models.fingerprint import checksums
from tunewise.models.replaced import replaced

Forward = Callable[[], object]
"""One forward of the whole model over a few rows."""
Entering = Callable[[], Tensor | None]
"""What enters the first live module, or None while the model is to run by itself."""


@dataclass
class Trunk:
    """Where the frozen part of a tuned model ends."""

    model: PreTrainedModel
    live: Literal["layer", "head", "decoder"]
    """What the first live module is."""
    n_layers: int
    """Layers below it."""
    at: str
    """The path of the first live module, whose input is kept; or of the encoder, whose output is."""
    passed: dict[str, int | None]
    """Layers that hand on what they are given: path -> the length of the tuple they return, None for a tensor."""
    left_out: str
    """The path of the module that is not run, where it is no single layer."""
    returned: ModelOutput | None
    """What that module returned for two rows, its values put to zero."""
    digest: str
    """Of the weights of the trunk, and of where it ends."""
    draws: bool = False
    """Whether it draws random numbers while training: dropout."""
    n_dims: int = 3
    """Of what leaves it: 3 for states of tokens, 2 where each row has one."""
    blank: Tensor = field(default_factory=lambda: torch.zeros(0))
    """(1, channels, ...) an empty image, for a base that reads images."""
    tried: dict[str, str] = field(default_factory=dict)
    """Objective -> why it does not run from what is kept, "" where it does."""

    def leaving(self, forward: Forward) -> Tensor:
        """What leaves the trunk during `forward`, which is broken off there; no gradients."""
        module = self.model.get_submodule(self.at)
        if self.live == "decoder":
            handle = module.register_forward_hook(_stop_behind)
        else:
            handle = module.register_forward_pre_hook(_stop_before, prepend=True, with_kwargs=True)
        try:
            with torch.no_grad():
                forward()
        except _Reached as reached:
            return reached.states
        finally:
            handle.remove()
        raise RuntimeError(f"{self.at} was not reached")

    @contextmanager
    def entered(self, entering: Entering) -> Iterator[None]:
        """Inside the block the trunk is not run while `entering()` says what would leave it."""
        with ExitStack() as stack:
            for path in self.passed if self.returned is None else [self.left_out]:
                module = self.model.get_submodule(path)
                if self.returned is None:
                    forward = _passing(module.forward, entering, self.passed[path])
                else:
                    forward = self._returning(module.forward, entering)
                stack.enter_context(replaced(module, "forward", forward))
            if self.live != "decoder":
                first, enter = self.model.get_submodule(self.at), partial(_enter, entering)
                stack.callback(first.register_forward_pre_hook(enter, prepend=True, with_kwargs=True).remove)
            yield

    def _returning(self, own: Callable[..., Any], entering: Entering) -> Callable[..., Any]:
        """A forward that returns what was returned once, with the states in it where they are the encoder's."""

        def forward(*args: Any, **kwargs: Any) -> Any:
            states = entering()
            if states is None:
                return own(*args, **kwargs)
            inside = {"last_hidden_state": states} if self.live == "decoder" else {}
            return type(self.returned)(**{**self.returned, **inside})

        return forward


def read_trunk(tuned: Tuned, forward: Forward) -> tuple[Trunk | None, str]:
    """The trunk of `tuned`, which must be in evaluation mode, and why there is none, or "".

    `forward` is run to see in which order modules are called: what is trained or attached acts from the first of its
    modules on.
    """
    model, layers = tuned.model, tuned.anatomy.layers
    acting = _acting(tuned)
    why = _at_a_glance(tuned, acting)
    if why:
        return None, why
    order, arities, returned = _trace(model, layers, forward)
    if missed := acting - set(order):
        return None, f"{sorted(missed)[0]} acts without being called"
    n_before = min(order.index(path) for path in acting)
    has_encoder = tuned.anatomy.kind == ENCODER_DECODER
    trunk, n_before = (_below_the_decoder if has_encoder else _below_the_first)(tuned, order, n_before)
    if trunk is None:
        return None, f"something is trained or attached in or below the {'encoder' if has_encoder else 'first layer'}"
    trunk.passed = {path: arities[path] for path in trunk.passed}
    if trunk.left_out:
        trunk.returned = returned.get(trunk.left_out)
        if trunk.returned is None:
            return None, f"{trunk.left_out} does not return a ModelOutput"
    if trunk.live != "decoder" and order.count(trunk.at) != 1:
        return None, f"{trunk.at} is called {order.count(trunk.at)} times"
    uncalled = {path for path, _ in model.named_modules()} - set(order)  # what they hold may be read all the same
    trunk.digest = _digest(trunk, frozen=set(order[:n_before]) | uncalled)
    trunk.draws, trunk.n_dims = _draws(trunk, forward)
    return trunk, ""


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode inside the block, and the mode it was in after it."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _acting(tuned: Tuned) -> set[str]:
    """Paths of the modules that hold something trained, or that a delta sits on."""
    trained = {id(parameter) for parameter in tuned.selected.values()}
    sites = {tuned.site(name).module for name in tuned.deltas}
    return sites | {
        path
        for path, module in tuned.model.named_modules()
        if any(id(parameter) in trained for parameter in module.parameters(recurse=False))
    }


def _at_a_glance(tuned: Tuned, acting: set[str]) -> str:
    """Why there is no trunk, where the paths alone tell it."""
    if tuned.prefix_ids or type(tuned.method).hooks is not Method.hooks:
        return f"{tuned.method.name} acts from the first layer on"
    if not acting:
        return "nothing is trained"
    if any(tuned.anatomy.layer_of(path) == 0 for path in acting):
        return "something is trained or attached in the first layer"
    return ""


def _below_the_first(tuned: Tuned, order: list[str], n_before: int) -> tuple[Trunk | None, int]:
    """The trunk below the first acting module, or the layer that it is in; and how many calls are below that."""
    model, layers, first = tuned.model, tuned.anatomy.layers, order[n_before]
    number = tuned.anatomy.layer_of(first)
    inside = None if number is None else layers[number]
    if inside is not None:
        n_before = order.index(inside)
    below = [layer for layer in layers if layer in order[:n_before]]
    is_between = inside is None and len(below) < len(layers)
    if not below or is_between:
        return None, 0
    if inside is None:
        bodies = [path for path in order if path and all(layer.startswith(f"{path}.") for layer in layers)]
        body = next((path for path in bodies if not first.startswith(f"{path}.")), None)
        if body is not None:
            return _trunk(model, "head", first, below, left_out=body), n_before
    return _trunk(model, "layer", inside or first, below), n_before


def _below_the_decoder(tuned: Tuned, order: list[str], n_before: int) -> tuple[Trunk | None, int]:
    """The whole encoder, where nothing acts before its last call."""
    layers = tuned.anatomy.layers[: len(tuned.anatomy.stacks[0])]
    encoder = layers[0].rpartition(".")[0].rpartition(".")[0]
    calls = [number for number, path in enumerate(order) if f"{path}.".startswith(f"{encoder}.")]
    if n_before < calls[-1]:
        return None, 0
    return _trunk(tuned.model, "decoder", encoder, list(layers), left_out=encoder), calls[-1] + 1


def _trunk(model: PreTrainedModel, live: Any, at: str, below: list[str], left_out: str = "") -> Trunk:
    return Trunk(model, live, len(below), at, dict.fromkeys(below), left_out, returned=None, digest="")


def _trace(
    model: PreTrainedModel, layers: tuple[str, ...], forward: Forward
) -> tuple[list[str], dict[str, int | None], dict[str, ModelOutput]]:
    """The paths of modules in the order of their calls; how many values each layer returns; what bodies return."""
    order: list[str] = []
    arities: dict[str, int | None] = {}
    returned: dict[str, ModelOutput] = {}

    def called(path: str, module: nn.Module, args: object) -> None:
        order.append(path)

    def returns(path: str, module: nn.Module, args: object, output: Any) -> None:
        if path in layers:
            arities[path] = len(output) if isinstance(output, tuple) else None
        elif isinstance(output, ModelOutput):
            returned[path] = type(output)(**{name: _nothing(value) for name, value in output.items()})

    handles = []
    for path, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(partial(called, path)))
        handles.append(module.register_forward_hook(partial(returns, path)))
    try:
        with torch.no_grad():
            forward()
    finally:
        for handle in handles:
            handle.remove()
    return order, arities, returned


def _nothing(value: Any) -> Any:
    """A tensor of the same shape that takes no memory; None for what is no tensor."""
    return value.new_zeros(()).expand(value.shape) if isinstance(value, Tensor) else None


def _digest(trunk: Trunk, frozen: set[str]) -> str:
    """Of the values of what `frozen` modules hold themselves, the precision, and where the trunk ends."""
    model = trunk.model
    sums = {name: value for name, value in checksums(model).items() if name.rpartition(".")[0] in frozen}
    told = [type(model).__name__, str(model.dtype), trunk.at, sums]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _draws(trunk: Trunk, forward: Forward) -> tuple[bool, int]:
    """Whether random numbers are drawn below the first live module in training mode; dimensions of what leaves it."""
    device = trunk.model.device
    trunk.model.train()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            before = _random_state(device)
            states = trunk.leaving(forward)
            return not torch.equal(before, _random_state(device)), states.dim()
    finally:
        trunk.model.eval()


def _random_state(device: torch.device) -> Tensor:
    states = [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]
    return torch.cat(states)


class _Reached(Exception):
    """The end of the trunk, with what leaves it."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states


def _stop_before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    raise _Reached(args[0] if args else kwargs["hidden_states"])


def _stop_behind(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    raise _Reached(output[0])


def _passing(own: Callable[..., Any], entering: Entering, arity: int | None) -> Callable[..., Any]:
    """A layer's forward that hands on what it is given, as its own would return it."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        if entering() is None:
            return own(*args, **kwargs)
        states = args[0] if args else kwargs["hidden_states"]
        return states if arity is None else (states, *[None] * (arity - 1))

    return forward


def _enter(
    entering: Entering, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    states = entering()
    if states is None:
        return None
    return ((states, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": states})
