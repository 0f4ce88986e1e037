"""Where things are in a base: its layers, embedding, head, and the *sites* a method may act on, by role."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from tunewise.errors import UserError, unknown
from tunewise.models.families import Family
from tunewise.models.lookup import family_of

ATTENTION_ROLES = ("q", "k", "v", "qkv", "o")
FEED_FORWARD_ROLES = ("gate", "up", "gate_up", "down")
EXPERT_ROLES = ("experts_gate_up", "experts_down")
MIXTURE = "mixture"  # the whole part that sends tokens to experts: no linear module, but it has an x and a y
# What a user may write instead of a list of roles; `all` is every linear module, and fused experts are none.
ROLE_GROUPS = {
    "attention": ATTENTION_ROLES,
    "mlp": FEED_FORWARD_ROLES,
    "experts": EXPERT_ROLES,
    "all": ATTENTION_ROLES + FEED_FORWARD_ROLES,
}


@dataclass(frozen=True)
class Site:
    """One module, or one slice of a fused one, where a delta may act.

    A fused module's output (..., d_fused) is seen as (..., groups, d_fused / groups), and the site is
    `[..., start:stop]` of that: one group for a plain concatenation (phi3, gpt2), one per head where queries, keys
    and values lie interleaved (gpt_neox), one per key-value head where its queries stand before it (falcon 40B).
    `stop` is None for a whole module.

    Where there are `n_experts`, the site is the weights of all of them, (n_experts, d_out, d_in), or with the last two
    turned round where they are `transposed`: one tensor inside a module, whose x and y nobody sees.
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
    parameter: str = "weight"
    n_experts: int = 0
    transposed: bool = False

    @property
    def path(self) -> str:
        """Of the module, or of the tensor where it is one inside a module."""
        return f"{self.module}.{self.parameter}" if self.n_experts else self.module

    @property
    def is_linear(self) -> bool:
        return not self.n_experts and self.role != MIXTURE

    @property
    def is_slice(self) -> bool:
        return self.stop is not None

    @property
    def is_cross(self) -> bool:
        """Whether it belongs to a decoder's attention over its encoder."""
        return self.name.rpartition(".")[2].startswith("cross_")

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
    """The map of one base. `layers` and `norms` are module paths; `sites` holds the linear sites of every layer, and
    where it has a mixture of experts, the whole of it and the weights of the experts.

    An encoder-decoder's layers are counted through both stacks, the encoder's first; its attention over the encoder
    has sites of its own (`layers.3.cross_q`) with the usual roles.
    """

    kind: str  # one of families.KINDS
    model_type: str
    d_model: int
    vocab_size: int  # rows of the embedding matrix, padding rows included; 0 where images are read
    context_length: int | None  # positions the base was made for, where its config says so
    n_heads: int
    n_key_value_heads: int
    layers: tuple[str, ...]
    embedding: Site | None  # where token ids enter; None where images are read
    head: Site | None  # of a language model
    task_head: tuple[str, ...]  # parameters of a classifier on top, which no pretraining has seen
    head_is_tied: bool
    sites: tuple[Site, ...]
    keys: tuple[Site, ...]  # where each layer's keys are final but for their rotation: k, or the norm behind it
    norms: tuple[str, ...]
    norms_heads_first: tuple[str, ...]  # of these, the ones of queries and keys that are given heads first
    parameters: tuple[str, ...]  # names of the base's own parameters, a tied one once

    @property
    def n_layers(self) -> int:
        return len(self.layers)

    @property
    def stacks(self) -> tuple[range, ...]:
        """The layers of each stack: of the only one, or the encoder's and the decoder's."""
        first = self.layers[0].rpartition(".")[0]
        n_first = sum(path.rpartition(".")[0] == first for path in self.layers)
        return tuple(stack for stack in (range(n_first), range(n_first, self.n_layers)) if stack)

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(site.role for site in self.sites))

    @property
    def linear(self) -> tuple[Site, ...]:
        """Every linear site: those of the layers, and the head."""
        return (*(site for site in self.sites if site.is_linear), *((self.head,) if self.head else ()))

    @property
    def mixtures(self) -> tuple[Site, ...]:
        """The feed-forward parts that send each token to a few of many experts."""
        return tuple(site for site in self.sites if site.role == MIXTURE)

    def find(
        self,
        roles: Iterable[str],
        layers: Iterable[int] | None = None,
        *,
        experts: bool = False,
        mixtures: bool = False,
    ) -> tuple[Site, ...]:
        """The sites with these roles, in the order of the model.

        A group name (`attention`, `mlp`, `all`) stands for the whole modules of that part, so that no weight is met
        twice; a role this base has only inside a fused module is a slice of it. Raises UserError for a role that this
        base lacks, naming those it has. The weights of `experts` are found for those alone who can act on them. For
        those who act around whole feed-forward parts, with `mixtures`, `down` is a whole mixture where there is one.
        """
        sites = self._offered(experts, mixtures)
        there = tuple(dict.fromkeys(role for role, _ in sites))
        groups = {name: set(group) & set(there) for name, group in ROLE_GROUPS.items() if set(group) & set(there)}
        wanted: set[str] = set()
        for role in roles:
            if role in groups:
                wanted |= groups[role] - {site.role for site in self.sites if site.is_slice}
            elif role in there:
                wanted.add(role)
            elif self.mixtures and role in (*EXPERT_ROLES, *FEED_FORWARD_ROLES, *ROLE_GROUPS):
                raise self._held_by_experts(role, there)
            else:
                raise unknown(f"role of a {self.model_type} model", role, (*there, *groups))
        chosen = None if layers is None else {self.layer_index(layer) for layer in layers}
        return tuple(
            site
            for role, site in sites
            if role in wanted and (chosen is None or site.layer is None or site.layer in chosen)
        )

    def _offered(self, experts: bool, mixtures: bool) -> list[tuple[str, Site]]:
        """Every site, by the role that it is asked for by."""
        mixed = {site.layer for site in self.mixtures} if mixtures else set()
        found = []
        for site in (*self.sites, *((self.head,) if self.head else ())):
            if site.role == MIXTURE and mixtures:
                found.append(("down", site))
            elif (site.n_experts and experts) or (
                site.is_linear and not (site.layer in mixed and site.role in FEED_FORWARD_ROLES)
            ):
                found.append((site.role, site))
        return found

    def _held_by_experts(self, role: str, there: Sequence[str]) -> UserError:
        """Why there is no linear module of this role where others have one; to be raised by the caller."""
        if role in ("experts", *EXPERT_ROLES):
            told = f"{role!r} are the fused weights of experts, on which lora alone acts"
        else:
            told = f"a {self.model_type} base has no {role!r}: its feed-forward parts are experts, fused in one tensor"
        return UserError(
            told, hint=f"method.roles=[q,v], of {', '.join(there)}; or method=lora method.roles=experts for the experts"
        )

    def layer_of(self, path: str) -> int | None:
        """The layer that a module or a parameter is in, or is; None where it is in none."""
        return next((number for number, layer in enumerate(self.layers) if f"{path}.".startswith(f"{layer}.")), None)

    def layer_index(self, layer: int) -> int:
        """`layer` counted from 0, or from the end when negative; raises UserError when there is no such layer."""
        if not -self.n_layers <= layer < self.n_layers:
            raise UserError(
                f"layer {layer} does not exist: this base has {self.n_layers}",
                hint=f"use 0 to {self.n_layers - 1}, or -1 for the last",
            )
        return layer % self.n_layers


def read_anatomy(model: PreTrainedModel) -> Anatomy:
    """The anatomy of `model`, which may live on the `meta` device.

    Raises UserError when its `model_type` is in no row and its module names allow no inference.
    """
    family = family_of(model)
    stacks = (family, family.decoder) if family.decoder else (family,)
    layers = tuple((stack, f"{stack.layers}.{i}") for stack in stacks for i in range(_depth(model, stack)))
    by_layer = [_layer_sites(model, stack, index, path) for index, (stack, path) in enumerate(layers)]
    modules = dict(model.named_modules())
    embedding = None if family.embedding is None else _whole(modules, "embedding", None, family.embedding)
    norms = tuple(path for path, module in modules.items() if _is_norm(module))
    around = tuple(
        f"{path}.{stack.sites['k'].rpartition('.')[0]}." for stack, path in layers if stack.norms_heads_first
    )
    heads = model.config.get_text_config().num_attention_heads
    head = _whole(modules, "head", None, family.head) if family.head in modules else None
    return Anatomy(
        kind=family.kind,
        model_type=model.config.model_type,
        d_model=next(site.d_out for site in by_layer[0] if site.role == "o"),
        vocab_size=embedding.d_in if embedding else 0,
        context_length=context_length(model.config),
        n_heads=heads,
        n_key_value_heads=_key_value_heads(by_layer, heads),
        layers=tuple(path for _, path in layers),
        embedding=embedding,
        head=head,
        task_head=() if head else outside_the_trunk(model),
        head_is_tied=bool(head and embedding and modules[head.module].weight is modules[embedding.module].weight),
        sites=tuple(site for sites in by_layer for site in sites),
        keys=tuple(
            _keys(modules, site, stack, path)
            for sites, (stack, path) in zip(by_layer, layers, strict=True)
            for site in [site for site in sites if site.role == "k"][:1]
        ),
        norms=norms,
        norms_heads_first=tuple(path for path in norms if path.startswith(around)),
        parameters=tuple(name for name, _ in model.named_parameters()),
    )


def _is_norm(module: nn.Module) -> bool:
    """Whatever stands behind the word (Nemotron's LayerNorm1P); one of several norms, as for each head, is those."""
    return "Norm" in type(module).__name__ and not any(True for _ in module.children())


def _key_value_heads(by_layer: Sequence[Sequence[Site]], heads: int) -> int:
    """As wide as those of the queries are, which the output projection takes in side by side."""
    sites = next(sites for sites in by_layer if any(site.role == "k" for site in sites))
    widths = {site.role: (site.d_in, site.d_out) for site in reversed(sites)}
    return widths["k"][1] * heads // widths["o"][0]


def _depth(model: PreTrainedModel, stack: Family) -> int:
    return sum(1 for _ in model.get_submodule(stack.layers).children())


def outside_the_trunk(model: PreTrainedModel) -> tuple[str, ...]:
    """Names of the parameters that stand on top of the base model, such as a classifier's."""
    if model.base_model is model:
        return ()
    trunk = f"{model.base_model_prefix}."
    return tuple(name for name, _ in model.named_parameters() if not name.startswith(trunk))


def modules_on_top(model: PreTrainedModel) -> tuple[str, ...]:
    """The modules that hold these parameters."""
    return tuple(dict.fromkeys(name.rpartition(".")[0] for name in outside_the_trunk(model)))


def _layer_sites(model: PreTrainedModel, family: Family, index: int, path: str) -> list[Site]:
    """The sites of one layer: whole modules, then the slices of fused ones."""
    modules = {f"{path}.{name}": module for name, module in model.get_submodule(path).named_modules()}
    chosen = [*family.sites.items(), *(family.elsewhere or {}).items()]
    if family.elsewhere is not None:
        chosen = [(role, relative) for role, relative in chosen if modules.get(f"{path}.{relative}") is not None]
    sites = [_whole(modules, role, index, f"{path}.{relative}") for role, relative in chosen]
    dense = next((part for part in family.feed_forward if f"{path}.{part}.down_proj" in modules), None)
    if dense:
        sites += [_whole(modules, role, index, f"{path}.{dense}.{role}_proj") for role in ("gate", "up", "down")]
    attention = next(site for site in sites if site.role == "o")
    experts = f"{path}.{family.experts}"
    if experts in modules:
        sites += _experts(modules[experts], index, experts, attention.d_out)
    for role, relative in (family.fused or {}).items():
        fused = _whole(modules, role, index, f"{path}.{relative}")
        sites.append(fused)
        if role == "gate_up":
            widths = {"gate": fused.d_out // 2, "up": fused.d_out // 2}
        else:
            key_width = (fused.d_out - attention.d_in) // 2
            wide = {"q": attention.d_in, "k": key_width, "v": key_width}
            widths = {part: wide[part] for part in family.qkv_order}
        groups = family.qkv_groups(model.config) if role == "qkv" else 1
        sites += _slices(fused, widths, groups)
    return sites


def _experts(module: nn.Module, index: int, path: str, d_model: int) -> Iterator[Site]:
    """The mixture that holds these experts, and their two weights, as transformers names them."""
    yield Site(f"layers.{index}.{MIXTURE}", MIXTURE, index, path.rpartition(".")[0], d_model, d_model)
    parameters = dict(module.named_parameters())
    if "gate_up_proj" not in parameters:  # packed, as gpt-oss is published: no method writes there
        return
    transposed = bool(vars(module)["is_transposed"])
    for name in ("gate_up_proj", "down_proj"):
        n_experts, *widths = parameters[name].shape
        d_in, d_out = widths if transposed else reversed(widths)
        role = f"experts_{name.removesuffix('_proj')}"
        site = Site(f"layers.{index}.{role}", role, index, path, d_in, d_out)
        yield replace(site, parameter=name, n_experts=n_experts, transposed=transposed)


def _keys(modules: Mapping[str, nn.Module], site: Site, family: Family, path: str) -> Site:
    if family.key_norm is None or f"{path}.{family.key_norm}" not in modules:
        return site
    module = f"{path}.{family.key_norm}"
    name, heads_first = f"layers.{site.layer}.key_norm", family.norms_heads_first
    return Site(name, "key_norm", site.layer, module, site.d_out, site.d_out, heads_first=heads_first)


def _slices(fused: Site, widths: dict[str, int], groups: int) -> list[Site]:
    """The parts of a fused site that lie behind one another in each of its groups."""
    parts, start = [], 0
    for role, width in widths.items():
        stop = start + width // groups
        name = f"layers.{fused.layer}.{role}"
        parts.append(replace(fused, name=name, role=role, d_out=width, start=start, stop=stop, groups=groups))
        start = stop
    return parts


def _whole(modules: Mapping[str, nn.Module], role: str, layer: int | None, path: str) -> Site:
    module: Any = modules[path]
    if isinstance(module, nn.Linear):  # its weight may be packed, in another shape
        d_in, d_out = module.in_features, module.out_features
    else:  # Conv1D, an embedding
        d_in, d_out = module.weight.shape
    has_bias = not isinstance(module, nn.Embedding) and module.bias is not None
    name = role if layer is None else f"layers.{layer}.{role}"
    return Site(name, role.removeprefix("cross_"), layer, path, d_in, d_out, has_bias=has_bias)


def context_length(config: PreTrainedConfig) -> int | None:
    """Positions that a base with this configuration was made for, where it says so."""
    told = config.get_text_config().to_dict()
    names = ("max_position_embeddings", "n_positions", "max_seq_len")
    return next((told[name] for name in names if told.get(name)), None)
