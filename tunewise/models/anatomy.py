"""Where things are in a base: its layers, embedding, head, and the *sites* a method may act on, by role.

This is the only file that knows architectures. A model family is one row of `FAMILIES`; a family that is not
there is inferred from its module names (and the inference printed), or refused with the row to write.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tunewise.errors import UserError, unknown

logger = logging.getLogger(__name__)

ATTENTION_ROLES = ("q", "k", "v", "qkv", "o")
FEED_FORWARD_ROLES = ("gate", "up", "gate_up", "down")
# What a user may write instead of a list of roles.
ROLE_GROUPS = {"attention": ATTENTION_ROLES, "mlp": FEED_FORWARD_ROLES, "all": ATTENTION_ROLES + FEED_FORWARD_ROLES}


@dataclass(frozen=True)
class Site:
    """One module, or one slice of a fused one, where a delta may act.

    A fused module's output (..., d_fused) is seen as (..., groups, d_fused / groups), and the site is
    `[..., start:stop]` of that: one group for a plain concatenation (phi3, gpt2), one per head where queries, keys
    and values lie interleaved (gpt_neox). `stop` is None for a whole module.
    """

    name: str
    role: str
    layer: int | None
    module: str
    d_in: int
    d_out: int
    start: int = 0
    stop: int | None = None
    groups: int = 1
    heads_first: bool = (
        False  # its output is (batch, heads, length, d_head), seen here as (batch, length, heads, d_head)
    )
    has_bias: bool = False

    @property
    def is_slice(self) -> bool:
        return self.stop is not None

    def read(self, tensor: Tensor, dim: int = -1) -> Tensor:
        """This site's share of the fused module's output, weight rows or bias: size d_out along `dim`."""
        if not self.is_slice:
            return tensor.transpose(1, 2) if self.heads_first else tensor
        grouped = tensor.unflatten(dim, (self.groups, -1))
        inner = dim if dim < 0 else dim + 1
        return grouped.narrow(inner, self.start, self.stop - self.start).flatten(inner - 1, inner)

    def write(self, tensor: Tensor, part: Tensor, dim: int = -1) -> Tensor:
        """`tensor` with this site's share replaced by `part`; out of place, so that autograd may have saved it."""
        if not self.is_slice:
            return part.transpose(1, 2) if self.heads_first else part
        inner = dim if dim < 0 else dim + 1
        out = tensor.unflatten(dim, (self.groups, -1)).clone()
        out.narrow(inner, self.start, self.stop - self.start).copy_(part.unflatten(dim, (self.groups, -1)))
        return out.flatten(inner - 1, inner)


@dataclass(frozen=True)
class Anatomy:
    """The map of one base. `layers` and `norms` are module paths; `sites` holds the linear sites of every layer."""

    model_type: str
    d_model: int
    vocab_size: int  # rows of the embedding matrix, padding rows included
    context_length: int | None  # positions the base was made for, where its config says so
    n_heads: int
    n_key_value_heads: int
    layers: tuple[str, ...]
    embedding: Site
    head: Site | None
    head_is_tied: bool
    sites: tuple[Site, ...]
    keys: tuple[Site, ...]  # where each layer's keys are final but for their rotation: k, or the norm behind it
    norms: tuple[str, ...]
    parameters: tuple[str, ...]  # names of the base's own parameters, a tied one once

    @property
    def n_layers(self) -> int:
        return len(self.layers)

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(site.role for site in self.sites))

    @property
    def linear(self) -> tuple[Site, ...]:
        """Every linear site: those of the layers, and the head."""
        return (*self.sites, *((self.head,) if self.head else ()))

    def find(self, roles: Iterable[str], layers: Iterable[int] | None = None) -> tuple[Site, ...]:
        """The sites with these roles, in the order of the model.

        A group name (`attention`, `mlp`, `all`) stands for the whole modules of that part, so that no weight is met
        twice; a role this base has only inside a fused module is a slice of it. Raises UserError for a role that this
        base lacks, naming those it has.
        """
        wanted: set[str] = set()
        for role in roles:
            if role in ROLE_GROUPS:
                slices = {site.role for site in self.sites if site.is_slice}
                wanted |= (set(ROLE_GROUPS[role]) & set(self.roles)) - slices
            elif role in self.roles or (role == "head" and self.head):
                wanted.add(role)
            else:
                raise unknown(f"role of a {self.model_type} model", role, (*self.roles, *ROLE_GROUPS, "head"))
        chosen = None if layers is None else {self.layer_index(layer) for layer in layers}
        return tuple(
            site
            for site in self.linear
            if site.role in wanted and (chosen is None or site.layer is None or site.layer in chosen)
        )

    def layer_index(self, layer: int) -> int:
        """`layer` counted from 0, or from the end when negative; raises UserError when there is no such layer."""
        if not -self.n_layers <= layer < self.n_layers:
            raise UserError(
                f"layer {layer} does not exist: this base has {self.n_layers}",
                hint=f"use 0 to {self.n_layers - 1}, or -1 for the last",
            )
        return layer % self.n_layers


@dataclass(frozen=True)
class Family:
    """One row: where a family of models keeps its parts. Paths in `sites` and `fused` are relative to a layer."""

    layers: str
    embedding: str
    sites: dict[str, str]
    fused: dict[str, str] | None = None  # whole role -> path
    key_norm: str | None = None  # what the keys pass, a head at a time, between their projection and the rotation
    key_norm_heads_first: bool = False
    interleaved_heads: bool = False  # the fused qkv is (heads, 3, d_head) instead of (3, heads, d_head)
    head: str = "lm_head"


_LLAMA = Family(
    layers="model.layers",
    embedding="model.embed_tokens",
    sites={
        "q": "self_attn.q_proj",
        "k": "self_attn.k_proj",
        "v": "self_attn.v_proj",
        "o": "self_attn.o_proj",
        "gate": "mlp.gate_proj",
        "up": "mlp.up_proj",
        "down": "mlp.down_proj",
    },
)

_GEMMA3 = replace(_LLAMA, key_norm="self_attn.k_norm", key_norm_heads_first=True)

FAMILIES: dict[str, Family] = {
    "llama": _LLAMA,  # SmolLM is a llama too
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": replace(_LLAMA, key_norm="self_attn.k_norm"),
    "gemma2": _LLAMA,
    "gemma3_text": _GEMMA3,
    "gemma3": replace(_GEMMA3, layers="model.language_model.layers", embedding="model.language_model.embed_tokens"),
    "phi3": Family(
        layers="model.layers",
        embedding="model.embed_tokens",
        sites={"o": "self_attn.o_proj", "down": "mlp.down_proj"},
        fused={"qkv": "self_attn.qkv_proj", "gate_up": "mlp.gate_up_proj"},
    ),
    "gpt2": Family(
        layers="transformer.h",
        embedding="transformer.wte",
        sites={"o": "attn.c_proj", "up": "mlp.c_fc", "down": "mlp.c_proj"},
        fused={"qkv": "attn.c_attn"},
    ),
    "gpt_neox": Family(
        layers="gpt_neox.layers",
        embedding="gpt_neox.embed_in",
        sites={"o": "attention.dense", "up": "mlp.dense_h_to_4h", "down": "mlp.dense_4h_to_h"},
        fused={"qkv": "attention.query_key_value"},
        interleaved_heads=True,
    ),
    "opt": Family(
        layers="model.decoder.layers",
        embedding="model.decoder.embed_tokens",
        sites={
            "q": "self_attn.q_proj",
            "k": "self_attn.k_proj",
            "v": "self_attn.v_proj",
            "o": "self_attn.out_proj",
            "up": "fc1",
            "down": "fc2",
        },
    ),
}


def read_anatomy(model: PreTrainedModel) -> Anatomy:
    """The anatomy of `model`, which may live on the `meta` device.

    Raises UserError when its `model_type` is in no row and its module names allow no inference.
    """
    model_type = model.config.model_type
    family = FAMILIES.get(model_type)
    if family is None:
        family = infer_family(model)
        logger.warning("model_type %r is new here; inferred from its module names: %s", model_type, family)
    layers = tuple(f"{family.layers}.{index}" for index, _ in enumerate(model.get_submodule(family.layers)))
    sites = tuple(site for index, path in enumerate(layers) for site in _layer_sites(model, family, index, path))
    embedding = _whole(model, "embedding", None, family.embedding)
    modules = dict(model.named_modules())
    heads, text_config = model.config.get_text_config().num_attention_heads, model.config.get_text_config().to_dict()
    head = _whole(model, "head", None, family.head) if family.head in modules else None
    return Anatomy(
        model_type=model_type,
        d_model=sites[0].d_in,
        vocab_size=embedding.d_in,
        context_length=_context_length(model),
        n_heads=heads,
        n_key_value_heads=text_config.get("num_key_value_heads") or heads,
        layers=layers,
        embedding=embedding,
        head=head,
        head_is_tied=head is not None and modules[head.module].weight is modules[embedding.module].weight,
        sites=sites,
        keys=tuple(_keys(model, family, index, path, sites) for index, path in enumerate(layers)),
        norms=tuple(path for path, module in modules.items() if type(module).__name__.endswith("Norm")),
        parameters=tuple(name for name, _ in model.named_parameters()),
    )


def infer_family(model: PreTrainedModel) -> Family:
    """The row for a model whose family is unknown, from the leaf names its layers share with the known rows."""
    lists = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len({type(layer) for layer in module}) == 1
    }
    if not lists:
        raise UserError(
            f"no stack of layers found in a {model.config.model_type!r} model",
            hint="tunewise adapts transformers; load a decoder such as llama, gpt2 or opt",
        )
    layers = max(lists, key=lambda path: sum(p.numel() for p in lists[path].parameters()))
    linears = [path for path, module in lists[layers][0].named_modules() if isinstance(module, nn.Linear | Conv1D)]
    known = _roles_by_leaf()
    leaves = {path: path.rsplit(".", 1)[-1] for path in linears}
    sites = {known[leaf]: path for path, leaf in leaves.items() if leaf in known}
    embedding = next(path for path, module in model.named_modules() if module is model.get_input_embeddings())
    if not {"q", "v", "o", "up", "down"} <= sites.keys() or len(sites) != len(linears):
        roles = ", ".join(f'"?": "{path}"' for path in linears)
        raise UserError(
            f"model_type {model.config.model_type!r} is in no row of the anatomy, and its names do not tell the roles",
            hint=f"add to FAMILIES in tunewise/models/anatomy.py: "
            f'"{model.config.model_type}": Family(layers="{layers}", embedding="{embedding}", sites={{{roles}}})',
        )
    return Family(layers=layers, embedding=embedding, sites=sites)


def _roles_by_leaf() -> dict[str, str]:
    """The last name of each site's path in the known rows -> its role, where all rows agree."""
    roles: dict[str, set[str]] = {}
    for family in FAMILIES.values():
        for role, path in family.sites.items():
            roles.setdefault(path.rsplit(".", 1)[-1], set()).add(role)
    return {leaf: found.pop() for leaf, found in roles.items() if len(found) == 1}


def _layer_sites(model: PreTrainedModel, family: Family, index: int, path: str) -> list[Site]:
    """The sites of one layer: whole modules, then the slices of fused ones."""
    sites = [_whole(model, role, index, f"{path}.{relative}") for role, relative in family.sites.items()]
    attention_width = next(site.d_in for site in sites if site.role == "o")
    for role, relative in (family.fused or {}).items():
        fused = _whole(model, role, index, f"{path}.{relative}")
        sites.append(fused)
        if role == "gate_up":
            widths = {"gate": fused.d_out // 2, "up": fused.d_out // 2}
        else:
            key_width = (fused.d_out - attention_width) // 2
            widths = {"q": attention_width, "k": key_width, "v": key_width}
        groups = model.config.num_attention_heads if family.interleaved_heads and role == "qkv" else 1
        sites += _slices(fused, widths, groups)
    return sites


def _keys(model: PreTrainedModel, family: Family, index: int, path: str, sites: Sequence[Site]) -> Site:
    site = next(site for site in sites if site.role == "k" and site.layer == index)
    if family.key_norm is None:
        return site
    module = f"{path}.{family.key_norm}"
    name, heads_first = f"layers.{index}.key_norm", family.key_norm_heads_first
    return replace(site, name=name, role="key_norm", module=module, d_in=site.d_out, heads_first=heads_first)


def _slices(fused: Site, widths: dict[str, int], groups: int) -> list[Site]:
    """The parts of a fused site that lie behind one another in each of its groups."""
    parts, start = [], 0
    for role, width in widths.items():
        stop = start + width // groups
        name = f"layers.{fused.layer}.{role}"
        parts.append(replace(fused, name=name, role=role, d_out=width, start=start, stop=stop, groups=groups))
        start = stop
    return parts


def _whole(model: PreTrainedModel, role: str, layer: int | None, path: str) -> Site:
    module = model.get_submodule(path)
    shape = tuple(module.weight.shape)
    d_in, d_out = shape if isinstance(module, Conv1D | nn.Embedding) else shape[::-1]
    has_bias = not isinstance(module, nn.Embedding) and module.bias is not None
    name = role if layer is None else f"layers.{layer}.{role}"
    return Site(name, role, layer, path, d_in, d_out, has_bias=has_bias)


def _context_length(model: PreTrainedModel) -> int | None:
    config = model.config.get_text_config().to_dict()
    return config.get("max_position_embeddings") or config.get("n_positions")
