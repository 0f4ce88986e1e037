"""Checkpoints of GPTQ, AWQ and compressed-tensors, loaded without the libraries that wrote them.

transformers loads a packed checkpoint through a quantiser of its own for each, which asks for such a library. Here is
one that needs none: in the places that the files name it puts what they hold (`integer_formats.py`), and when that has
been loaded the layers of `packed_integers.py`, one after another.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.auto import register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from tunewise.errors import UserError
from tunewise.models.integer_formats import AWQ, COMPRESSED, GPTQ, read
from tunewise.models.packed_integers import IntegerLinear
from tunewise.models.packed_shell import Layout

CODES = {GPTQ: "qweight", AWQ: "qweight", COMPRESSED: "weight_packed"}
PARTS = (
    "qweight", "qzeros", "scales", "g_idx",
    "weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx",
)  # fmt: skip
"""What the tensors of a packed layer are called."""
FROM_ORIGINAL = "load its original, and quantise it while loading: quantise=nf4"
_OURS = "tunewise-integers"
_TYPES = {
    "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32,
    "I8": torch.int8, "I32": torch.int32, "I64": torch.int64,
}  # fmt: skip
"""By the name that a file has for each."""


def check(told: Mapping[str, Any]) -> None:
    """UserError for what one of these writers has quantised otherwise than is read here."""
    by, wrong = told["quant_method"], ""
    if by == GPTQ and (form := told.get("checkpoint_format") or told.get("format") or GPTQ) not in (GPTQ, "gptq_v2"):
        wrong = f"its checkpoint_format is {form!r}, and gptq and gptq_v2 are read"
    if by == AWQ and (form := str(told.get("version") or told.get("format") or "gemm").lower()) != "gemm":
        wrong = f"its version is {form!r}, and gemm is read"
    if by == COMPRESSED:
        wrong = _unlike_packed(told)
    if wrong:
        raise UserError(f"this checkpoint is quantised by {by!r}: {wrong}", FROM_ORIGINAL)


def _unlike_packed(told: Mapping[str, Any]) -> str:
    groups = list((told.get("config_groups") or {}).values())
    if told.get("format") != "pack-quantized":
        return f"its format is {told.get('format')!r}, and pack-quantized is read"
    if any(group.get("input_activations") or group.get("output_activations") for group in groups):
        return "what enters its layers is quantised too"
    if any(told.get(name) for name in ("kv_cache_scheme", "transform_config")):
        return "it quantises keys and values, or turns what enters"
    return ""


def layout_of(told: Mapping[str, Any]) -> Layout:
    """What a config says of the layers as a whole, and how they will be held."""
    if told["quant_method"] == COMPRESSED:
        told = next(iter(told["config_groups"].values()))["weights"]
        bits, is_symmetric = told["num_bits"], told.get("symmetric", True)
    else:
        bits = told.get("bits") or told["w_bit"]
        is_symmetric = told.get("sym", not told.get("zero_point", True))
    group = told.get("group_size") or told.get("q_group_size") or -1
    return Layout(4 if bits <= 4 else 8, group, has_zeros=not is_symmetric)


class IntegerConfig(QuantizationConfigMixin):
    """What `from_pretrained` is told, in the place of the checkpoint's own `quantization_config`, to load it here."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        self.quant_method: Any = _OURS
        self.told = dict(told)


class _Stored(nn.Module):
    """Of one layer all that is in the file, on its way; and the layer in whose place it stands."""

    def __init__(self, source: nn.Module, tensors: Mapping[str, tuple[Sequence[int], torch.dtype]]) -> None:
        super().__init__()
        d_in, d_out = source.weight.shape if isinstance(source, Conv1D) else reversed(source.weight.shape)
        self.shape, self.source_cls = (d_out, d_in), type(source)
        self.bias = source.bias
        self.register_buffer("weight", torch.empty(0), persistent=False)  # which some families ask for
        for name, (shape, dtype) in tensors.items():
            self.register_buffer(name, torch.empty(tuple(shape), dtype=dtype, device="meta"))


@register_quantizer(_OURS)
class IntegerQuantizer(HfQuantizer):
    """Puts such layers in the places that the files name, before weights are loaded into them."""

    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, checkpoint_files: Sequence[str] | None = None, **_: Any
    ) -> None:
        of_layers = _tensors_of_layers(checkpoint_files or ())
        modules = dict(model.named_modules())
        codes = CODES[self._told["quant_method"]]
        for path, tensors in of_layers.items():
            place = _place(path, model, modules)
            if not place:
                continue
            if codes not in tensors:
                raise UserError(f"{path} has {', '.join(sorted(tensors))} and no {codes}", FROM_ORIGINAL)
            model.set_submodule(place, _Stored(modules[place], tensors))

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **_: Any) -> PreTrainedModel:
        for path in [path for path, module in model.named_modules() if isinstance(module, _Stored)]:
            model.set_submodule(path, _layer(self._told, path, model.get_submodule(path), model.dtype))
        model.config.quantization_config = self._told
        return model

    @property
    def _told(self) -> dict[str, Any]:
        assert isinstance(self.quantization_config, IntegerConfig)
        return self.quantization_config.told

    def is_serializable(self) -> bool:
        """No: what is in memory is not what lies in the files."""
        return False

    @property
    def is_trainable(self) -> bool:
        return True


def _tensors_of_layers(files: Sequence[str]) -> dict[str, dict[str, tuple[list[int], torch.dtype]]]:
    """Layer -> its packed tensors, by the headers of the files: shape and type of each."""
    found: dict[str, dict[str, tuple[list[int], torch.dtype]]] = defaultdict(dict)
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                path, _, part = name.rpartition(".")
                if part in PARTS:
                    header = opened.get_slice(name)
                    if header.get_dtype() not in _TYPES:
                        raise UserError(f"{name} is stored as {header.get_dtype()}, which is not read", FROM_ORIGINAL)
                    found[path][part] = header.get_shape(), _TYPES[header.get_dtype()]
    return found


def _place(path: str, model: PreTrainedModel, modules: Mapping[str, nn.Module]) -> str:
    """Where the layer of this name in a file is in `model`; "" for a head that it does not have."""
    prefix = f"{model.base_model_prefix}."
    for name in (path, prefix + path, path.removeprefix(prefix)):
        if isinstance(modules.get(name), nn.Linear | Conv1D):
            return name
    if path.partition(".")[0] not in modules:
        return ""
    raise UserError(
        f"this checkpoint packs {path}, and a {type(model).__name__} has no linear layer of that name: experts in one "
        "tensor, and layers other than linear ones, are not read from packed numbers",
        FROM_ORIGINAL,
    )


def _layer(told: Mapping[str, Any], path: str, stored: nn.Module, dtype: torch.dtype) -> IntegerLinear:
    assert isinstance(stored, _Stored)
    tensors = dict(stored.named_buffers())
    try:
        return IntegerLinear(read(tensors, *stored.shape, told), stored.bias, dtype, stored.source_cls)
    except (KeyError, ValueError, RuntimeError, IndexError) as error:
        lack = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items() if name in PARTS)
        raise UserError(
            f"{path}, {stored.shape[0]} x {stored.shape[1]}, cannot be made of {shapes}: {lack}", FROM_ORIGINAL
        ) from error
