"""Checkpoints of GPTQ, AWQ and compressed-tensors, read without the libraries that wrote them.

Each is whole numbers of 2, 3, 4 or 8 bits with scales and zeros by group, packed into words of 32 bits, the first code
in the lowest bits; three bits run on over the border of a word. What is in a file (W: d_out, d_in; G groups of inputs):

| | codes | zeros | scales | group of an input |
|---|---|---|---|---|
| GPTQ | qweight, d_in packed, (·, d_out) | qzeros (G, ·), d_out packed | (G, d_out) | g_idx (d_in,) |
| AWQ, gemm | qweight (d_in, ·), d_out packed | qzeros (G, ·), d_out packed | (G, d_out) | its place |
| compressed-tensors | weight_packed (d_out, ·), d_in packed | weight_zero_point, d_out packed, (·, G) | weight_scale (d_out, G) | weight_g_idx |

GPTQ's first format has one less in the place of each zero, taken off word by word, and its second (gptq_v2) the zeros
themselves; where it is symmetric all are 2^(bits-1). AWQ puts eight columns into a word in the order 0 2 4 6 1 3 5 7.
compressed-tensors adds 2^(bits-1) to signed codes and zeros, and writes no zeros where it is symmetric.
Sources: gptqmodel 7.7 (nn_modules/qlinear), AutoAWQ 0.2.9 (modules/linear/gemm.py), compressed-tensors 0.20
(compressors/pack_quantized), each held against what its own code unpacks.
"""  # noqa: E501

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.auto import register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from tunewise.errors import UserError
from tunewise.models.packed_integers import IntegerLinear, Integers

GPTQ, AWQ, COMPRESSED = WRITERS = ("gptq", "awq", "compressed-tensors")
"""What `quant_method` is in the config of each."""
CODES = {GPTQ: "qweight", AWQ: "qweight", COMPRESSED: "weight_packed"}
PARTS = (
    "qweight", "qzeros", "scales", "g_idx", "weight_packed", "weight_scale", "weight_zero_point",
    "weight_shape", "weight_g_idx",
)
BITS = (2, 3, 4, 8)
COLUMNS_OF_AWQ = (0, 2, 4, 6, 1, 3, 5, 7)
FROM_ORIGINAL = "load its original, and quantise it while loading: quantise=nf4"
_OURS = "tunewise-integers"
_TYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "I64": torch.int64, "I32": torch.int32}


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


def of_each_weight(told: Mapping[str, Any]) -> tuple[int, int]:
    """What a config says of its weights: bits, and how many have a scale in common (-1: a row). Layers may differ."""
    if told["quant_method"] != COMPRESSED:
        return told.get("bits") or told["w_bit"], told.get("group_size") or told.get("q_group_size") or -1
    weights = next(iter(told["config_groups"].values()))["weights"]
    return weights["num_bits"], weights.get("group_size") or -1


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
        for path, stored in list(model.named_modules()):
            if isinstance(stored, _Stored):
                model.set_submodule(path, _layer(self._told["quant_method"], self._told, path, stored, model.dtype))
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


def _layer(by: str, told: Mapping[str, Any], path: str, stored: _Stored, dtype: torch.dtype) -> IntegerLinear:
    tensors = dict(stored.named_buffers())
    try:
        whole = _READERS[by](tensors, *stored.shape, told)
        _check_shapes(whole, *stored.shape)
        return IntegerLinear(whole, stored.bias, dtype, stored.source_cls)
    except (KeyError, ValueError, RuntimeError, IndexError) as error:
        lack = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items() if name in PARTS)
        raise UserError(
            f"{path}, {stored.shape[0]} x {stored.shape[1]}, cannot be made of {shapes}: {lack}", FROM_ORIGINAL
        ) from error


def _check_shapes(whole: Integers, d_out: int, d_in: int) -> None:
    if whole.bits not in BITS:
        raise ValueError(f"its codes have {whole.bits} bits, and those of 2, 3, 4 and 8 are read")
    if whole.codes.shape != (d_out, d_in) or whole.zeros.shape != whole.scales.shape or len(whole.scales) != d_out:
        raise ValueError("its shapes do not go together")
    if len(whole.groups) != d_in or whole.groups.min() < 0:
        raise ValueError("not every input has a group")


def _of_gptq(tensors: Mapping[str, Tensor], d_out: int, d_in: int, told: Mapping[str, Any]) -> Integers:
    words, zeros, bits = tensors["qweight"], tensors["qzeros"], len(tensors["qweight"]) * 32 // d_in
    is_first = (told.get("checkpoint_format") or told.get("format") or GPTQ) == GPTQ
    if is_first and 32 % bits == 0:
        zeros = zeros + sum(1 << i for i in range(0, 32, bits))
    found = unpacked(zeros.T, bits, d_out).T
    if is_first and 32 % bits:
        found = found + 1 & (1 << bits) - 1
    codes = unpacked(words, bits, d_in).T
    return Integers(codes, tensors["scales"].T, found.T, tensors["g_idx"].long(), bits)


def _of_awq(tensors: Mapping[str, Tensor], d_out: int, d_in: int, told: Mapping[str, Any]) -> Integers:
    inverse = torch.tensor(COLUMNS_OF_AWQ).argsort()

    def rows(words: Tensor) -> Tensor:
        return unpacked(words.T, 4, d_out).unflatten(0, (-1, 8))[:, inverse].flatten(0, 1)

    scales = tensors["scales"].T
    return Integers(rows(tensors["qweight"]), scales, rows(tensors["qzeros"]), _in_place(d_in, scales.shape[1]), 4)


def _of_compressed(tensors: Mapping[str, Tensor], d_out: int, d_in: int, told: Mapping[str, Any]) -> Integers:
    words, scales = tensors["weight_packed"], tensors["weight_scale"].reshape(-1, tensors["weight_scale"].shape[-1])
    bits, scales = words.shape[1] * 32 // d_in, scales.expand(d_out, -1)
    zeros = torch.full(scales.shape, 1 << bits - 1, dtype=torch.uint8)
    if "weight_zero_point" in tensors:
        zeros = unpacked(tensors["weight_zero_point"], bits, d_out)
    groups = tensors.get("weight_g_idx", torch.tensor(-1)).long()
    groups = groups if groups.min() >= 0 else _in_place(d_in, scales.shape[1])
    return Integers(unpacked(words.T, bits, d_in).T, scales, zeros, groups, bits)


_READERS = {GPTQ: _of_gptq, AWQ: _of_awq, COMPRESSED: _of_compressed}


def _in_place(d_in: int, n_groups: int) -> Tensor:
    if d_in % n_groups:
        raise ValueError(f"{d_in} inputs are not {n_groups} groups")
    return torch.arange(n_groups).repeat_interleave(d_in // n_groups)


def unpacked(words: Tensor, bits: int, n: int) -> Tensor:
    """int32 (·, m), n codes of so many bits in each column, one behind the other from the lowest bit -> uint8 (n, m)."""
    if len(words) != -(-n * bits // 32):
        raise ValueError(f"{len(words)} words are not {n} codes of {bits} bits")
    blocks = functional.pad(words, (0, 0, 0, -len(words) % bits)).unflatten(0, (-1, bits))  # of 32 codes each
    codes = torch.empty(len(blocks), 32, words.shape[1], dtype=torch.uint8)
    for i in range(32):
        word, bit = divmod(i * bits, 32)
        code = blocks[:, word] >> bit
        if bit + bits > 32:  # the rest of it is in the next word
            code = code & (1 << 32 - bit) - 1 | blocks[:, word + 1] << 32 - bit
        codes[:, i] = code & (1 << bits) - 1
    return codes.flatten(0, 1)[:n]
