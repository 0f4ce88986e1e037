"""The Hugging Face PEFT format: which of our adapters peft can read, and reading those that peft wrote.

Each method says in `Method.peft` what peft calls its parts; this module puts them together. Keys and configuration
fields are those of peft 0.21 (`adapter_config.json` + `adapter_model.safetensors`). A config from a stranger is read by
allow-list: every field that would change the equation is refused by name. Which modules it changes is told by the names
of its tensors, so that a pattern of `target_modules` is never run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tunewise.config import parse
from tunewise.errors import UserError
from tunewise.hub import apart
from tunewise.methods import METHODS
from tunewise.methods.base import BARE_PREFIX, PREFIX, Method, PeftNames
from tunewise.models.anatomy import Anatomy, Site, read_anatomy
from tunewise.models.families import DECODER, ENCODER_DECODER, SCALES_IDS

if TYPE_CHECKING:
    from tunewise.methods.attach import Tuned

# Fields that only describe, or only matter to training in peft.
DESCRIPTIVE = {
    "peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "megatron_core", "qalora_group_size", "token_dim", "num_transformer_submodules", "num_attention_heads",
    "num_layers", "tokenizer_name_or_path", "tokenizer_kwargs", "ensure_weight_tying", "layers_pattern",
}  # fmt: skip
WHERE = {"target_modules", "target_parameters", "modules_to_save", "layers_to_transform", "fan_in_fan_out"}


@dataclass(frozen=True)
class PeftForm:
    """An adapter as peft would write it: its configuration, and our tensor name -> peft's."""

    config: dict[str, object]
    keys: dict[str, str]
    tensors: dict[str, Tensor]
    """Tensors in peft's own layout, for a method whose own are no others under other names."""


def to_peft(tuned: Tuned, base_name: str) -> PeftForm | None:
    """The PEFT form of an adapter, or None where peft has no such adapter (a slice of a fused layer, say)."""
    names = tuned.method.peft
    sites = [tuned.site(name) for name in tuned.deltas]
    if names is None or _is_given_embeddings(names, tuned.anatomy):
        return None
    base, revision = apart(base_name)
    transposed = any(isinstance(tuned.model.get_submodule(site.module), Conv1D) for site in sites)
    if not names.converted and (any(site.is_slice for site in sites) or (transposed and not names.conv1d)):
        return None
    config: dict[str, object] = {
        "base_model_name_or_path": base,
        **({"revision": revision} if revision else {}),
        "inference_mode": True,
        "task_type": _task_type(tuned.model, tuned.anatomy),
        "peft_type": names.peft_type,
        **names.constants,
    }
    for ours, theirs in names.fields.items():
        value = tuned.method.model_dump()[ours]
        config[theirs] = int(value) if isinstance(value, float) and value.is_integer() and value > 1 else value
    head = [name for name in tuned.anatomy.task_head if name in tuned.selected]
    chosen = [name for name in tuned.selected if name not in head]
    if chosen and not names.selected:  # tensors of the base that peft has no name for
        return None
    selected = {name: name.rpartition(".") for name in chosen} if names.selected else {}
    targets: list[str] = []
    if names.selected:
        config |= {"target_modules": _target_modules(tuned, sorted({module for module, _, _ in selected.values()}))}
    elif not names.bare:
        targets = _target_modules(tuned, [site.module for site in sites if not site.n_experts])
        config |= {"target_modules": targets}
        if parameters := [site.path for site in sites if site.n_experts]:
            config |= {"target_parameters": parameters}
        config |= {"fan_in_fan_out": transposed} if names.conv1d else {}
    if head or not names.bare:
        config |= {"modules_to_save": _tops(head) or None}
    config |= tuned.method.peft_fields(tuned.anatomy, targets)
    keys = {f"base.{name}": f"{PREFIX}{module}.{names.selected}.{leaf}" for name, (module, _, leaf) in selected.items()}
    keys |= {f"base.{name}": f"{BARE_PREFIX if names.bare else PREFIX}{name}" for name in head}
    wrapped = _wrapped({site.path: site for site in sites})
    for site in sites:
        for tensor, end in names.tensors.items():
            if tensor.startswith("shared."):
                keys[tensor] = end
            else:
                keys[f"delta.{site.name}.{tensor}"] = end if names.bare else f"{PREFIX}{wrapped[site.path]}.{end}"
    tensors = tuned.method.to_peft_tensors(tuned.settled_state(), tuned.model, tuned.anatomy)
    if names.converted and not tensors:
        return None
    if tensors:
        tensors |= {keys[f"base.{name}"]: tuned.selected[name].detach().contiguous() for name in head}
    return PeftForm(config, keys, tensors)


def _is_given_embeddings(names: PeftNames, anatomy: Anatomy) -> bool:
    """Whether peft, which hands on embeddings in the place of ids, makes another base of this one by that."""
    return names.bare and not names.converted and anatomy.model_type in SCALES_IDS


def _task_type(model: PreTrainedModel, anatomy: Anatomy) -> str | None:
    """What peft calls the model's task; None where it has no name for it."""
    if anatomy.head is not None:
        return {DECODER: "CAUSAL_LM", ENCODER_DECODER: "SEQ_2_SEQ_LM"}.get(anatomy.kind)
    named = {"ForSequenceClassification": "SEQ_CLS", "ForTokenClassification": "TOKEN_CLS"}
    return next((task for end, task in named.items() if type(model).__name__.endswith(end)), None)


def _tops(names: Iterable[str]) -> list[str]:
    """The modules right below the model that hold these parameters."""
    return list(dict.fromkeys(name.split(".")[0] for name in names))


def _target_modules(tuned: Tuned, modules: list[str]) -> list[str]:
    """The short names peft users write where they mean exactly these modules, whole paths otherwise."""
    leaves = sorted({path.rsplit(".", 1)[-1] for path in modules})
    meant = {path for path, _ in tuned.model.named_modules() if path.rsplit(".", 1)[-1] in leaves}
    return leaves if meant == set(modules) else modules


def from_peft(
    config: Mapping[str, object], tensors: Mapping[str, Tensor], model: PreTrainedModel
) -> tuple[Method, dict[str, Tensor]]:
    """Our method and our state for an adapter that peft wrote; raises UserError for what has no equal here."""
    anatomy = read_anatomy(model)
    chosen, names = _method_for(config)
    if _is_given_embeddings(names, anatomy):
        raise UserError(
            f"{anatomy.model_type} reads embeddings, which peft gives it, otherwise than token ids",
            hint="train the prompt here: method=prompt_tuning",
        )
    _refuse_other_fields(config, names)
    _refuse_other_modules(config, names, model, anatomy)
    # a classifier that the adapter does not hold was not trained with it, and stays what it is
    head = {f"base.{name}": model.get_parameter(name).detach() for name in anatomy.task_head}
    rest = {}
    for key, tensor in tensors.items():
        ours = f"base.{key.removeprefix(PREFIX).removeprefix(BARE_PREFIX)}"
        (head if ours in head else rest)[ours if ours in head else key] = tensor
    method, state = _method_and_state(chosen, config, rest, model, anatomy)
    return method, state | head


def _method_and_state(
    chosen: type[Method],
    config: Mapping[str, object],
    tensors: Mapping[str, Tensor],
    model: PreTrainedModel,
    anatomy: Anatomy,
) -> tuple[Method, dict[str, Tensor]]:
    """The same for a method that is known already, and without a classifier on top."""
    names = chosen.peft
    assert names is not None, chosen
    fields: dict[str, object] = {ours: config[peft] for ours, peft in names.fields.items() if peft in config}
    tensors = chosen.completed(config, tensors)
    fields |= chosen.from_peft_fields(config, tensors, anatomy)
    if names.converted:
        method = parse(chosen, fields)
        on_meta = model.device.type == "meta"  # a shell tells no more than the method
        return method, {} if on_meta else method.from_peft_tensors(tensors, model, anatomy)
    if names.bare:
        ends = {end: tensor for tensor, end in names.tensors.items()}
        unknown = set(tensors) - set(ends)
        if unknown:
            raise UserError(f"{names.peft_type} has the tensors {', '.join(ends)}; found {', '.join(sorted(tensors))}")
        site = anatomy.embedding.name
        return parse(chosen, fields), {f"delta.{site}.{ends[key]}": tensor for key, tensor in tensors.items()}
    if names.selected:
        inner = f".{names.selected}."
        found = {f"base.{key.removeprefix(PREFIX).replace(inner, '.')}": tensor for key, tensor in tensors.items()}
        return parse(chosen, fields), found
    state, sites = _state(names, tensors, anatomy, config.get("target_parameters"))
    return parse(chosen, {**fields, **where(sites, anatomy)}), state


def _method_for(config: Mapping[str, object]) -> tuple[type[Method], PeftNames]:
    """The method of this `peft_type` whose constants the configuration has."""
    alike = [(m, m.peft) for m in METHODS.values() if m.peft and m.peft.peft_type == config.get("peft_type")]
    if not alike:
        readable = dict.fromkeys(method.peft.peft_type for method in METHODS.values() if method.peft)
        raise UserError(
            f"peft_type {config.get('peft_type')!r} has no counterpart here yet",
            hint=f"readable: {', '.join(readable)}",
        )
    for method, names in alike:
        if all(_same(config.get(field, value), value) for field, value in names.constants.items()):
            return method, names
    return alike[0]


def _state(
    names: PeftNames, tensors: Mapping[str, Tensor], anatomy: Anatomy, parameters: object
) -> tuple[dict[str, Tensor], dict[str, Site]]:
    """Our names for peft's tensors, and the sites they stand at; `parameters` is its target_parameters."""
    named = [f".{end}" for end in parameters] if isinstance(parameters, list) else []
    there = {site.path: site for site in (*anatomy.sites, anatomy.head) if site and not site.is_slice}
    targeted = {
        path: site
        for path, site in there.items()
        if not site.n_experts or any(f".{path}".endswith(end) for end in named)
    }
    by_module = {module: targeted[path] for path, module in _wrapped(targeted).items()}
    ends = {end: tensor for tensor, end in names.tensors.items()}
    state: dict[str, Tensor] = {}
    sites: dict[str, Site] = {}
    for key, tensor in tensors.items():
        if key in ends:
            state[ends[key]] = tensor
            continue
        path = key.removeprefix(PREFIX)
        end = next((end for end in ends if path.endswith(f".{end}")), None)
        module = path.removesuffix(f".{end}")
        if end is None or module not in by_module:
            if anatomy.embedding is not None and anatomy.embedding.path in module:
                raise UserError(
                    f"tensor {key!r} is of the embedding, which {names.peft_type} does not change here",
                    hint="merge the adapter in peft (model.merge_and_unload()) and load the merged model as a base",
                )
            raise UserError(
                f"tensor {key!r} belongs to no site of this base", hint="is it an adapter for another base?"
            )
        sites[module] = by_module[module]
        state[f"delta.{by_module[module].name}.{ends[end]}"] = tensor
    return state, sites


def _wrapped(sites: Mapping[str, Site]) -> dict[str, str]:
    """Path of each site -> the module of peft's that holds its tensors.

    peft wraps a module once for each tensor inside it that it adapts, the last one outside.
    """
    found = {path: site.module for path, site in sites.items()}
    of_experts: dict[str, list[str]] = {}
    for path, site in sites.items():
        if site.n_experts:
            of_experts.setdefault(site.module, []).append(path)
    for module, paths in of_experts.items():
        for depth, path in enumerate(reversed(paths)):
            found[path] = module + depth * ".base_layer"
    return found


def where(sites: Mapping[str, Site], anatomy: Anatomy) -> dict[str, object]:
    """The roles and layers that mean exactly these sites."""
    roles = tuple(dict.fromkeys(site.role for site in sites.values()))
    layers = sorted({site.layer for site in sites.values() if site.layer is not None})
    chosen = None if len(layers) in (0, anatomy.n_layers) else layers
    if {site.name for site in anatomy.find(roles, chosen, experts=True)} != {site.name for site in sites.values()}:
        raise UserError(
            "this adapter changes different roles in different layers, which one method here cannot express",
            hint="merge it in the library that wrote it (in peft: model.merge_and_unload())",
        )
    return {"roles": roles, "layers": chosen}


def _same(value: object, wanted: object) -> bool:
    return value == wanted or (not wanted and value in (None, False, {}, [], "none"))


def _refuse_other_fields(config: Mapping[str, object], names: PeftNames) -> None:
    """Every field that is neither ours nor descriptive must say "off"."""
    own = {*names.fields.values(), *names.training_only, *DESCRIPTIVE, *WHERE}
    for field, value in config.items():
        if field not in own and not _same(value, names.constants.get(field)):
            raise UserError(
                f"adapter_config.json sets {field}={value!r}, which has no counterpart here",
                hint="merge the adapter in peft (model.merge_and_unload()) and load the merged model as a base",
            )


def _refuse_other_modules(
    config: Mapping[str, object], names: PeftNames, model: PreTrainedModel, anatomy: Anatomy
) -> None:
    """Only a classifier on top may be saved whole, and only virtual tokens before the encoder's input be had."""
    wanted = config.get("modules_to_save") or []
    there = {path.rsplit(".", 1)[-1] for path, _ in model.named_modules()}
    others = [name for name in wanted if name in there and name not in _tops(anatomy.task_head)]
    if others:
        raise UserError(
            f"adapter_config.json sets modules_to_save={wanted!r}; {others[0]} is no classifier on top of this base",
            hint="merge the adapter in peft (model.merge_and_unload()) and load the merged model as a base",
        )
    if config.get("num_transformer_submodules") not in (None, 1) and not names.converted:
        raise UserError(
            f"adapter_config.json sets num_transformer_submodules={config['num_transformer_submodules']}: "
            "virtual tokens before the decoder's input too, which has no counterpart here",
            hint="train it with num_transformer_submodules=1, as Lester et al. 2021 do",
        )
