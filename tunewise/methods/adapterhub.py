"""Adapters that the AdapterHub library (`adapters`) wrote, read: its bottleneck adapters and its LoRA.

A folder holds adapter_config.json, with the adapter's own fields under `config`, and adapter.safetensors; keys and
fields are those of adapters 1.3. They are read by allow-list: a field that would change the equation is refused by
name. Houlsby's placement (`double_seq_bn`) is `bottleneck` here. Its `seq_bn` is not: that adapter reads the layer norm
of y + residual, ours reads y. Its `par_bn` is `parallel` where no norm stands before the feed-forward part.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tunewise.config import parse
from tunewise.errors import UserError
from tunewise.methods.additive.bottleneck import PLACEMENTS, BottleneckAdapter
from tunewise.methods.additive.parallel import ParallelAdapter
from tunewise.methods.base import Method
from tunewise.methods.interop import where
from tunewise.methods.reparam.lora import LoRA
from tunewise.models.anatomy import Anatomy, Site, read_anatomy
from tunewise.models.families import ENCODER

TENSORS, HEAD_TENSORS = "adapter.safetensors", "model_head.safetensors"
# Where in a layer an adapter hangs -> the role of the site it follows.
_PLACES = {"attention.output": "o", "attention_adapters": "o", "output": "down", "output_adapters": "down"}
_ENDS = {"down.0.weight": "down", "down.0.bias": "down_bias", "up.weight": "up", "up.bias": "up_bias"}
_ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "swish": "silu", "silu": "silu"}
_FORMERLY = {"gelu": "gelu_new", "gelu_orig": "gelu"}  # what a file without a version means
_AS_OURS = {"original_ln_after": True, "scaling": 1.0, "composition_mode": "add"}  # and what is not below must be off
_NOT_COMPARED = {
    # read below, or told by the tensors
    "is_parallel", "non_linearity", "r", "alpha", "mh_adapter", "output_adapter", "leave_out", "reduction_factor",
    "selfattn_lora", "intermediate_lora", "output_lora", "attn_matrices", "dtype",
    # for training alone
    "dropout", "init_weights", "init_weights_seed", "stochastic_depth",
    # without effect while another field is off: original_ln_before, ln_after, inv_adapter, phm_layer
    "residual_before_ln", "adapter_residual_before_ln", "inv_adapter_reduction_factor", "phm_dim", "phm_bias",
    "phm_rank", "phm_c_init", "phm_init_range", "learn_phm", "factorized_phm_W", "factorized_phm_rule", "shared_W_phm",
    "shared_phm_rule", "hypercomplex_nonlinearity",
}  # fmt: skip


def is_adapterhub(config: Mapping[str, object]) -> bool:
    """Whether an adapter_config.json is one of the AdapterHub library."""
    return "peft_type" not in config and isinstance(config.get("config"), Mapping)


def from_adapterhub(
    config: Mapping[str, object], tensors: Mapping[str, Tensor], head: Mapping[str, Tensor], model: PreTrainedModel
) -> tuple[Method, dict[str, Tensor]]:
    """Our method and state for such an adapter and the head saved beside it; UserError for what has no equal here."""
    anatomy, fields = read_anatomy(model), config["config"]
    assert isinstance(fields, Mapping)
    if config.get("model_type") != anatomy.model_type:
        made_for = f"the adapter was made for a {config.get('model_type')} model"
        raise UserError(f"{made_for}, this one is {anatomy.model_type}", hint="load a base of that kind")
    _refuse_other_fields(fields)
    is_lora = fields.get("architecture") == "lora"
    known = (_lora_keys if is_lora else _bottleneck_keys)(str(config.get("name")), anatomy)
    state: dict[str, Tensor] = {}
    sites: dict[str, Site] = {}
    for key, tensor in tensors.items():
        found = known.get(key) or known.get(f"{model.base_model_prefix}.{key}")  # saved without a head on top
        if found is None:
            raise UserError(f"tensor {key!r} has no counterpart in this base", hint="is it an adapter for another one?")
        site, name = found
        sites[site.module] = site
        state[f"delta.{site.name}.{name}"] = tensor
    method = (_lora if is_lora else _bottleneck)(config, fields, state, sites, anatomy)
    return method, state | _head(head, model, anatomy)


def _refuse_other_fields(fields: Mapping[str, object]) -> None:
    same = {**_AS_OURS, "architecture": "lora"} if fields.get("architecture") == "lora" else dict(_AS_OURS)
    if fields.get("is_parallel") and isinstance(fields.get("scaling"), float):
        same["scaling"] = fields["scaling"]
    for field, value in fields.items():
        if field not in _NOT_COMPARED and value != same.get(field) and (value or same.get(field)):
            raise UserError(
                f"adapter_config.json sets {field}={value!r}, which has no counterpart here",
                hint="read are double_seq_bn, par_bn and lora as the library has them; serve others in the library",
            )


def _bottleneck_keys(name: str, anatomy: Anatomy) -> dict[str, tuple[Site, str]]:
    """The library's key -> the site and our tensor, at every place where a bottleneck adapter may hang."""
    by_name = {site.name: site for site in anatomy.sites}
    return {
        f"{path}.{place}.adapters.{name}.adapter_{end}": (by_name[f"layers.{layer}.{role}"], tensor)
        for layer, path in enumerate(anatomy.layers)
        for place, role in _PLACES.items()
        for end, tensor in _ENDS.items()
        if f"layers.{layer}.{role}" in by_name
    }


def _lora_keys(name: str, anatomy: Anatomy) -> dict[str, tuple[Site, str]]:
    """The same for LoRA; on a fused module the library keeps its parts in a layout of its own, which is not read."""
    fused = {site.module for site in anatomy.sites if site.is_slice}
    whole = [site for site in anatomy.linear if site.module not in fused]
    return {f"{site.module}.loras.{name}.{end}": (site, end) for site in whole for end in ("lora_A", "lora_B")}


def _bottleneck(config: Mapping, fields: Mapping, state: Mapping, sites: Mapping, anatomy: Anatomy) -> Method:
    activation, is_parallel = str(fields.get("non_linearity")).lower(), bool(fields.get("is_parallel"))
    activation = activation if "version" in config else _FORMERLY.get(activation, activation)
    widths = sorted({len(tensor) for name, tensor in state.items() if name.endswith("down_bias")})
    roles = {site.role for site in sites.values()}
    layers = sorted({site.layer for site in sites.values()})
    placement = next((name for name, there in PLACEMENTS.items() if set(there) == roles), "")
    read = ("pfeiffer",) if is_parallel else tuple(PLACEMENTS)
    if activation not in _ACTIVATIONS or len(widths) != 1 or placement not in read:
        raise UserError(
            f"adapters with {activation}, of widths {widths}, behind {', '.join(sorted(roles))} are no method here",
            hint=f"read are {', '.join(_ACTIVATIONS)}; one width; placements as of bottleneck: {', '.join(read)}",
        )
    if is_parallel and anatomy.kind != ENCODER:
        raise UserError(
            f"the library's parallel adapter of a {anatomy.model_type} reads what enters the norm before the "
            "feed-forward part, ours what leaves it",
            hint="read are parallel adapters of encoders, where no norm stands there",
        )
    ours: dict[str, object] = {"bottleneck": widths[0], "activation": _ACTIVATIONS[activation]}
    ours["layers"] = None if len(layers) == anatomy.n_layers else layers
    if is_parallel:
        return parse(ParallelAdapter, {**ours, "scale": fields.get("scaling", 1.0)})
    return parse(BottleneckAdapter, {**ours, "placement": placement})


def _lora(config: Mapping, fields: Mapping, state: Mapping, sites: Mapping, anatomy: Anatomy) -> Method:
    # before 1.1 the library scaled by 1 whatever alpha said: github.com/adapter-hub/adapters/pull/770
    is_old = str(config.get("version")).startswith(("adapters.0.", "adapters.1.0."))
    numbers = {"rank": fields.get("r"), "alpha": fields.get("r" if is_old else "alpha")}
    return parse(LoRA, {**numbers, "dropout": fields.get("dropout", 0.0), **where(sites, anatomy)})


def _head(head: Mapping[str, Tensor], model: PreTrainedModel, anatomy: Anatomy) -> dict[str, Tensor]:
    """The classifier on top: the one saved with the adapter, else the model's own; UserError for another head."""
    found = {name: model.get_parameter(name).detach() for name in anatomy.task_head}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, tensor in head.items():
        if name in found:
            found[name] = tensor
        elif name not in parameters or not torch.equal(tensor.to(parameters[name]), parameters[name]):
            raise UserError(
                f"{HEAD_TENSORS} holds a {name} that is not this base's",
                hint="load the base with the same head, or save the adapter with save_adapter(..., with_head=False)",
            )
    return {f"base.{name}": tensor for name, tensor in found.items()}
