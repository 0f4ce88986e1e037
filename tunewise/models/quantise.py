"""Bases whose linear weights lie in 4 or 8 bits, through bitsandbytes: NF4, FP4 and LLM.int8().

NF4 with double quantisation: Dettmers et al. 2023, arXiv:2305.14314 (`models/nf4.py` writes it out); LLM.int8():
Dettmers et al. 2022, arXiv:2208.07339. Quantisation is a way of loading: a site hands out its dequantised weight, and
no method asks how it is stored. Needs the extra `quant`.
"""

import importlib.util
import logging
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel

from tunewise.errors import UserError, unknown
from tunewise.models.codes import EightBits, FourBits

NF4, FP4, INT8 = FORMATS = ("nf4", "fp4", "int8")
ROUTES = (
    "serve it attached (tunewise.load_adapter), or merge it into dense weights: "
    "tunewise adapter merge FOLDER --into dequantised, or --into original"
)


def cannot_write(module: str) -> str:
    """Why the weight of a quantised module is never written."""
    return f"{module} is quantised: a change of its weight would be rounded to another one"


def refuse_to_train(model: nn.Module, method: str, parameters: Iterable[str]) -> None:
    """UserError where one of these parameters is a packed weight."""
    quantised = packed_weights(model).keys() & set(parameters)
    if quantised:
        raise UserError(
            f"{method} trains {min(quantised)}: a quantised weight is made of codes, which have no gradient",
            hint="train something beside the weights, such as method=lora, or load the base without quantise",
        )


def loading(config: PreTrainedConfig, wanted: str, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """What `from_pretrained` has to be told to load a base in the format `wanted`; nothing where none is wanted.

    Weights are kept in blocks of 64 with their constants quantised again, and multiplied in `dtype`. A checkpoint that
    bitsandbytes wrote has its format already. Raises UserError for a format that is none, a checkpoint in another
    one, float64, and where bitsandbytes is not installed.
    """
    if wanted and wanted not in FORMATS:
        raise unknown("format of quantised weights", wanted, FORMATS)
    stored = format_of_checkpoint(config)
    if wanted and stored and wanted != stored:
        raise UserError(f"quantise={wanted}, and this checkpoint is stored in {stored}", f"leave quantise={stored}")
    if not (wanted or stored):
        return {}
    if dtype is torch.float64:
        raise UserError("quantised weights are multiplied in 16 or 32 bits, not in float64", "dtype=float32")
    _require()
    where = {"device_map": {"": device}}
    return where if stored else {**where, "quantization_config": _configuration(wanted, dtype)}


def format_of_checkpoint(config: PreTrainedConfig) -> str:
    """The format that a checkpoint's config says its weights are in, "" for plain ones; UserError for a stranger's."""
    told = config.to_dict().get("quantization_config")
    if not told:
        return ""
    if told.get("quant_method") != "bitsandbytes":
        raise UserError(
            f"this checkpoint is quantised by {told.get('quant_method')!r}, which is not read here",
            hint="load its original, and quantise it while loading: quantise=nf4",
        )
    return INT8 if told.get("load_in_8bit") else told.get("bnb_4bit_quant_type", FP4)


def format_of(model: PreTrainedModel) -> str:
    """The format a loaded model's linear weights are in, "" where they are plain."""
    return format_of_checkpoint(model.config) if packed_weights(model) else ""


def is_quantised(module: nn.Module) -> bool:
    """Whether its weight is stored packed; nothing is imported to tell."""
    return "bitsandbytes" in sys.modules and isinstance(module, _packed_layers().LAYERS)


def packed_weights(model: nn.Module) -> dict[str, nn.Module]:
    """Name of a weight that is stored packed -> its module."""
    return {f"{path}.weight": module for path, module in model.named_modules() if is_quantised(module)}


def dequantised_weight(module: nn.Module) -> Tensor:
    """The weight (d_out, d_in) that a quantised module acts with, a new tensor."""
    return _packed_layers().weight_of(module)


def codes_of(module: nn.Module) -> FourBits | EightBits | None:
    """What a quantised module keeps in place of its weight; None where it may pack that anew while it runs."""
    return _packed_layers().codes_of(module)


def scales(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The numbers that turn codes into weights, by name."""
    for name, module in packed_weights(model).items():
        for index, scale in enumerate(_packed_layers().scales_of(module)):
            yield f"{name}.scale{index}", scale


def keep_layout(model: nn.Module) -> None:
    """See to it that packed weights stay as they are while the model runs; see `packed.Dequantising`."""
    for module in packed_weights(model).values():
        _packed_layers().keep_layout(module)


def leave_file(model: nn.Module) -> None:
    """Copy what stayed plain out of the mapped checkpoint, which would keep every page that was read to be packed."""
    for tensor in chain(model.parameters(), model.buffers()):
        if tensor.is_floating_point() and tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()


def dequantise(model: PreTrainedModel) -> PreTrainedModel:
    """Put plain linear layers with the dequantised weights in place of the packed ones; `model` itself is changed."""
    weights = {name: dequantised_weight(module).to(model.dtype) for name, module in packed_weights(model).items()}
    model.dequantize()
    for name, weight in weights.items():  # transformers' own come from the kernel that `packed.weight_of` works round
        model.get_parameter(name).data = weight
    return model


def _configuration(wanted: str, dtype: torch.dtype) -> BitsAndBytesConfig:
    if wanted == INT8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=wanted,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def _require() -> None:
    missing = [name for name in ("bitsandbytes", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"quantised bases need {' and '.join(missing)}", hint="pip install 'tunewise[quant]'")
    # it tells of a kernel it could download, and at every product that int8 casts its input
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def _packed_layers() -> ModuleType:
    from tunewise.models import packed  # imports bitsandbytes: seconds, for those who need it

    return packed
