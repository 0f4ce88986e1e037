"""The last layer where it is read: behind its keys and values it computes the tokens that the head is given, no others.

Of a packed row the head reads the tokens before labels, or the first of each text. In the last layer all that acts on
each token by itself (queries, the output of attention, the feed-forward part) runs on those tokens alone; at the other
places zeros stand, which nobody reads, so that losses and gradients are what they are.

Legend: T tokens of a packed row, R that are read.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunewise.models.anatomy import MIXTURE, Site, read_anatomy
from tunewise.models.replaced import replaced

SAME = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 0.02}
"""How far the output for a token may lie from that among others, over the largest number."""
FEED_FORWARD = ("gate", "up", "gate_up", "down")
ALONE = ("q", "o", *FEED_FORWARD)
"""Roles of linear layers whose output for a token nobody else needs."""
_PARTS: WeakKeyDictionary[PreTrainedModel, tuple[nn.Module, ...]] = WeakKeyDictionary()


def read_as(model: PreTrainedModel, other: PreTrainedModel) -> None:
    """Let `model` compute few tokens where `other` can, whose modules have the same names.

    For a model that holds no numbers, on which nothing can be tried.
    """
    parts = _parts_of(other)
    _PARTS[model] = tuple(model.get_submodule(path) for path, module in other.named_modules() if module in parts)


def _parts_of(model: PreTrainedModel) -> tuple[nn.Module, ...]:
    if model not in _PARTS:
        _PARTS[model] = _parts(model)
    return _PARTS[model]


def read_places(wanted: Sequence[int], n_tokens: int, multiple: int) -> list[int]:
    """`wanted` and as many other places below `n_tokens` as make it a `multiple`, in order."""
    n_more = -len(wanted) % multiple
    if not n_more:
        return sorted(wanted)
    taken = set(wanted)
    others = (place for place in range(n_tokens) if place not in taken)
    return sorted([*wanted, *islice(others, n_more)])


def wanted_first(wanted: Sequence[int], n_tokens: int, multiple: int) -> list[int]:
    """The same places, the distinct `wanted` ones first and in their order: those of lanes stand part by part."""
    return [*wanted, *sorted(set(read_places(wanted, n_tokens, multiple)).difference(wanted))]


@contextmanager
def read_at(model: PreTrainedModel, places: Tensor) -> Iterator[None]:
    """Inside the block the last layer of `model` computes what it makes of the tokens at `places`, (R,), distinct.

    It runs as it is where activations are computed again in the backward pass, behind the block.
    """
    if model.training and any(vars(module).get("gradient_checkpointing") for module in model.modules()):
        yield
        return
    with ExitStack() as stack:
        for part in _parts_of(model):
            stack.enter_context(replaced(part, "forward", _where_read(part.forward, places)))
        yield


def _where_read(forward: Callable[..., Tensor], places: Tensor) -> Callable[..., Tensor]:
    def on_few(*args: Any, **kwargs: Any) -> Tensor:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        n_tokens = tensors[0].shape[1]
        if n_tokens <= len(places) or any(t.dim() != 3 or t.shape[:2] != (1, n_tokens) for t in tensors):
            return forward(*args, **kwargs)

        def few(value: Any) -> Any:
            return taken(value.squeeze(0), places)[None] if isinstance(value, Tensor) else value

        made = forward(*map(few, args), **{name: few(value) for name, value in kwargs.items()})
        return laid(made.squeeze(0), places, n_tokens)[None]

    return on_few


def taken(x: Tensor, places: Tensor) -> Tensor:
    """(R, d) the rows of (T, d) at distinct `places`."""
    return _Taken.apply(x, places)


def laid(x: Tensor, places: Tensor, n_tokens: int) -> Tensor:
    """(R, d) at distinct `places` among zeros, (T, d)."""
    return _Laid.apply(x, places, n_tokens)


class _Taken(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor) -> Tensor:
        ctx.places, ctx.n_tokens = places, len(x)
        return x.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _laid(gradients[0], ctx.places, ctx.n_tokens), None


class _Laid(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor, n_tokens: int) -> Tensor:
        ctx.places = places
        return _laid(x, places, n_tokens)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0].index_select(0, ctx.places), None, None


def _laid(x: Tensor, places: Tensor, n_tokens: int) -> Tensor:
    return x.new_zeros(n_tokens, x.shape[1]).index_copy_(0, places, x)


@torch.no_grad()
def _parts(model: PreTrainedModel) -> tuple[nn.Module, ...]:
    """What acts on each token by itself in the last layer: the modules around its sites where they do, as is tried."""
    anatomy = read_anatomy(model)
    last = [site for site in anatomy.sites if site.layer == anatomy.n_layers - 1]
    sites = [site for site in last if site.is_linear and not site.is_slice]
    mixtures = [site for site in last if site.role == MIXTURE]
    around: dict[str, list[Site]] = {}
    for site in sites:
        around.setdefault(site.module.rpartition(".")[0], []).append(site)
    inner = {path: held for path, held in around.items() if any(site.role in FEED_FORWARD for site in held)}
    was_training = model.training
    model.eval()
    try:
        whole = {path for path, held in inner.items() if _is_by_token(model, path, held, anatomy.layers)}
        mixed = [site.module for site in mixtures if _is_by_token(model, site.module, [site], anatomy.layers)]
    finally:
        model.train(was_training)
    if not inner.keys() <= whole.union(anatomy.layers):
        return ()  # what mixes tokens needs all of those before it
    # a delta may bring what enters one part to what leaves another: the feed-forward parts are taken all or none, and
    # of the part behind attention its linear layer alone, as that of the queries is
    if not inner.keys() <= whole:
        whole = set()
    found = [
        path if path in whole else site.module
        for path, held in around.items()
        for site in held
        if path in whole or site.role in ALONE
    ]
    return tuple(model.get_submodule(path) for path in dict.fromkeys([*found, *mixed]))


def _is_by_token(model: PreTrainedModel, path: str, held: Sequence[Site], layers: Sequence[str]) -> bool:
    """Whether the module at `path`, which holds or is these sites, makes one tensor of one or two, token by token.

    What holds keys and values does not, nor does a whole layer.
    """
    if path in layers or any(site.role not in ("o", *FEED_FORWARD, MIXTURE) for site in held):
        return False
    module = model.get_submodule(path)
    told = list(inspect.signature(type(module).forward).parameters.values())[1:]
    n_needed = sum(each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD for each in told)
    if n_needed not in (1, 2):
        return False
    generator = torch.Generator().manual_seed(0)
    entering = next((site for site in held if site.role != "down"), held[0])
    widths = [entering.d_in, held[-1].d_out][:n_needed]
    tensors = [torch.randn(1, 5, width, generator=generator).to(model.dtype) for width in widths]
    try:
        of_all = type(module).forward(module, *tensors)
        of_few = type(module).forward(module, *(tensor[:, 1::2] for tensor in tensors))
    except (TypeError, ValueError, RuntimeError):
        return False
    if not isinstance(of_all, Tensor) or of_all.shape[:2] != (1, 5):
        return False
    return float((of_few - of_all[:, 1::2]).abs().max() / of_all.abs().max()) < SAME[model.dtype]
