"""The Hugging Face PEFT format: which of our adapters peft can read, and reading those that peft wrote.

Keys and configuration fields are those of peft 0.21 (`adapter_config.json` + `adapter_model.safetensors`). A config
from a stranger is read by allow-list: literal module names, no patterns, and every field that would change the
equation refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from tunewise.config import parse
from tunewise.errors import UserError
from tunewise.methods.base import Method
from tunewise.methods.prompt.prompt_tuning import PromptTuning
from tunewise.methods.reparam.lora import LoRA
from tunewise.models.anatomy import ROLE_GROUPS, Anatomy, Site

if TYPE_CHECKING:
    from tunewise.methods.attach import Tuned

PREFIX = "base_model.model."
# Fields that only describe, or only matter to training in peft.
DESCRIPTIVE = {
    "peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "megatron_core", "qalora_group_size", "token_dim", "num_transformer_submodules", "num_attention_heads",
    "num_layers", "tokenizer_name_or_path", "tokenizer_kwargs", "ensure_weight_tying", "layers_pattern",
}  # fmt: skip


@dataclass(frozen=True)
class PeftForm:
    """An adapter as peft would write it: its configuration, and our tensor name -> peft's."""

    config: dict[str, object]
    keys: dict[str, str]


def to_peft(tuned: Tuned, base_name: str) -> PeftForm | None:
    """The PEFT form of an adapter, or None where peft has no such adapter (a slice of a fused layer, say)."""
    write = _WRITERS.get(tuned.method.name)
    form = write(tuned) if write else None
    if form is None:
        return None
    common = {"base_model_name_or_path": base_name, "inference_mode": True, "task_type": "CAUSAL_LM"}
    return PeftForm({**common, **form.config}, form.keys)


def from_peft(
    config: Mapping[str, object], tensors: Mapping[str, Tensor], anatomy: Anatomy
) -> tuple[Method, dict[str, Tensor]]:
    """Our method and our state for an adapter that peft wrote; raises UserError for what has no equal here."""
    read = _READERS.get(str(config.get("peft_type")))
    if read is None:
        raise UserError(
            f"peft_type {config.get('peft_type')!r} has no counterpart here yet",
            hint=f"readable: {', '.join(_READERS)}",
        )
    return read(config, tensors, anatomy)


def _write_lora(tuned: Tuned) -> PeftForm | None:
    assert isinstance(tuned.method, LoRA)
    method, by_name = tuned.method, {site.name: site for site in tuned.anatomy.find(tuned.method.roles)}
    sites = [by_name[name] for name in tuned.deltas]
    if any(site.is_slice for site in sites):
        return None
    config = {
        "peft_type": "LORA",
        "r": method.rank,
        "lora_alpha": int(method.alpha) if method.alpha.is_integer() else method.alpha,
        "lora_dropout": method.dropout,
        "use_rslora": method.rslora,
        "use_dora": False,
        "bias": "none",
        "fan_in_fan_out": any(_is_transposed(tuned, site) for site in sites),
        "init_lora_weights": True if method.init == "kaiming" else method.init,
        "target_modules": _target_modules(tuned, [site.module for site in sites]),
        "modules_to_save": None,
    }
    return PeftForm(
        config, {f"delta.{s.name}.lora_{m}": f"{PREFIX}{s.module}.lora_{m}.weight" for s in sites for m in "AB"}
    )


def _is_transposed(tuned: Tuned, site: Site) -> bool:
    shape = tuple(tuned.model.get_submodule(site.module).weight.shape)
    return type(tuned.model.get_submodule(site.module)).__name__ == "Conv1D" and shape == (site.d_in, site.d_out)


def _target_modules(tuned: Tuned, modules: list[str]) -> list[str]:
    """The short names peft users write where they mean exactly these modules, whole paths otherwise."""
    leaves = sorted({path.rsplit(".", 1)[-1] for path in modules})
    meant = {path for path, _ in tuned.model.named_modules() if path.rsplit(".", 1)[-1] in leaves}
    return leaves if meant == set(modules) else modules


def _read_lora(
    config: Mapping[str, object], tensors: Mapping[str, Tensor], anatomy: Anatomy
) -> tuple[Method, dict[str, Tensor]]:
    own = ("r", "lora_alpha", "lora_dropout", "use_rslora")
    _refuse_other_fields(config, {*own, "target_modules", "layers_to_transform", "fan_in_fan_out"})
    if config.get("init_lora_weights", True) not in (True, False, "gaussian"):
        raise UserError(
            f"init_lora_weights={config['init_lora_weights']!r} changes the base's weights too",
            hint="convert it in peft first: save_pretrained(..., path_initial_model_for_weight_conversion=...)",
        )
    by_module = {site.module: site for site in (*anatomy.sites, anatomy.head) if site and not site.is_slice}
    state: dict[str, Tensor] = {}
    sites: dict[str, Site] = {}
    for key, tensor in tensors.items():
        module, _, which = key.removeprefix(PREFIX).removesuffix(".weight").rpartition(".")
        if module not in by_module or which not in ("lora_A", "lora_B"):
            raise UserError(
                f"tensor {key!r} belongs to no site of this base", hint="is it an adapter for another base?"
            )
        sites[module] = by_module[module]
        state[f"delta.{by_module[module].name}.{which}"] = tensor
    roles = tuple(dict.fromkeys(site.role for site in sites.values()))
    layers = sorted({site.layer for site in sites.values() if site.layer is not None})
    chosen = None if len(layers) in (0, anatomy.n_layers) else layers
    if {site.name for site in anatomy.find(roles, chosen)} != {site.name for site in sites.values()}:
        raise UserError(
            "this adapter changes different roles in different layers, which one LoRA here cannot express",
            hint="merge it in peft: model.merge_and_unload()",
        )
    return parse(LoRA, {**{k: config[k] for k in own if k in config}, "roles": roles, "layers": chosen}), state


def _write_prompt(tuned: Tuned) -> PeftForm:
    assert isinstance(tuned.method, PromptTuning)
    embedding = tuned.anatomy.embedding
    config = {
        "peft_type": "PROMPT_TUNING",
        "num_virtual_tokens": tuned.method.virtual_tokens,
        "prompt_tuning_init": "RANDOM",  # how peft would start; the trained prompt replaces it
        "token_dim": embedding.d_out,
        "num_transformer_submodules": 1,
        "num_layers": tuned.anatomy.n_layers,
        "num_attention_heads": tuned.model.config.get_text_config().num_attention_heads,
    }
    return PeftForm(config, {f"delta.{embedding.name}.prompt": "prompt_embeddings"})


def _read_prompt(
    config: Mapping[str, object], tensors: Mapping[str, Tensor], anatomy: Anatomy
) -> tuple[Method, dict[str, Tensor]]:
    _refuse_other_fields(config, {"num_virtual_tokens", "prompt_tuning_init", "prompt_tuning_init_text"})
    if set(tensors) != {"prompt_embeddings"}:
        raise UserError(f"a soft prompt is one tensor, prompt_embeddings; found {', '.join(sorted(tensors))}")
    method = PromptTuning(virtual_tokens=tensors["prompt_embeddings"].shape[0], init="random")
    return method, {f"delta.{anatomy.embedding.name}.prompt": tensors["prompt_embeddings"]}


def _refuse_other_fields(config: Mapping[str, object], own: set[str]) -> None:
    """Every field that is neither ours nor descriptive must say "off"."""
    off = (None, False, {}, [], "none")
    for field, value in config.items():
        if field not in own | DESCRIPTIVE | {"init_lora_weights"} and value not in off:
            raise UserError(
                f"adapter_config.json sets {field}={value!r}, which has no counterpart here",
                hint="merge the adapter in peft (model.merge_and_unload()) and load the merged model as a base",
            )
    targets = config.get("target_modules")
    if isinstance(targets, str) and targets not in ("all-linear", *ROLE_GROUPS):
        raise UserError(
            f"adapter_config.json names its modules by a pattern, {targets!r}, and patterns of strangers are not run",
            hint="write target_modules as a list of names",
        )


_WRITERS: dict[str, Callable[[Tuned], PeftForm | None]] = {"lora": _write_lora, "prompt_tuning": _write_prompt}
_READERS = {"LORA": _read_lora, "PROMPT_TUNING": _read_prompt}
