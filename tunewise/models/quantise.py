"""Bases whose linear weights lie in 4 or 8 bits, through bitsandbytes: NF4, FP4 and LLM.int8().

NF4 with double quantisation: Dettmers et al. 2023, arXiv:2305.14314 (`models/nf4.py` writes it out); LLM.int8():
Dettmers et al. 2022, arXiv:2208.07339. Quantisation is a way of loading: a site hands out its dequantised weight, and
no method asks how it is stored. Needs the extra `quant`; NF4 alone is to be had without (`plain.py`), and what GPTQ,
AWQ and compressed-tensors wrote is read without (`integer_checkpoints.py`). The embedding and the head stay as they
are, or lie in int8 (`ends.py`): nf4-ends8.
"""

import importlib.util
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tunewise.errors import UserError, unknown
from tunewise.models import ends, integer_checkpoints, packed_integers, plain, subclassed
from tunewise.models.codes import EightBits, FourBits
from tunewise.models.integer_formats import WRITERS
from tunewise.models.packed_integers import IntegerLinear
from tunewise.models.packed_shell import Layout, PackedShell

NF4, FP4, INT8 = FORMATS = ("nf4", "fp4", "int8")
"""Of the linear layers."""
ENDS = "-ends8"
WITH_ENDS = tuple(form + ENDS for form in FORMATS)
"""The same, with embedding and head in int8."""
TORCHAO = "torchao"
"""What is said of a checkpoint of its: in which of its formats the weights are is told by its config."""
ROUTES = (
    "serve it attached (tunewise.load_adapter), or merge it into dense weights: tunewise adapter merge FOLDER "
    "--route dequantised, or --route original; without --route it measures what each of them changes"
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


def loading(
    config: PreTrainedConfig, wanted: str, dtype: torch.dtype, device: torch.device, kept: Sequence[str] = ()
) -> dict[str, Any]:
    """What `from_pretrained` has to be told to load a base in the format `wanted`; nothing where none is wanted.

    Weights are kept in blocks of 64 with their constants quantised again, and multiplied in `dtype`; the modules
    `kept` stay dense, or where none is named a language model's head. A checkpoint that bitsandbytes wrote has its
    format already. Raises UserError for a format that is none, a checkpoint in another one, float64, and where
    bitsandbytes is not installed, but for NF4 on a CPU, which `plain.py` has.
    """
    stored = format_of_checkpoint(config)
    if not format_to_be(config, wanted):
        return {}
    if dtype is torch.float64:
        raise UserError("quantised weights are multiplied in 16 or 32 bits, not in float64", "dtype=float32")
    if stored in WRITERS or (is_plain(config, wanted) and device.type == "cpu"):
        return {}
    if stored == TORCHAO:
        require("this checkpoint needs", TORCHAO, "accelerate", hint="pip install torchao accelerate")
    else:
        require(f"quantise={wanted or stored} needs", "bitsandbytes", "accelerate")
    where = {"device_map": {"": device}}
    return where if stored else {**where, "quantization_config": _configuration(of_layers(wanted), dtype, kept)}


def format_to_be(config: PreTrainedConfig, wanted: str) -> str:
    """The format wanted, or where none is that of the checkpoint; UserError for one that it cannot be loaded in."""
    stored = format_of_checkpoint(config)
    if wanted not in ("", stored):
        check_format(wanted)
    if wanted and stored and wanted not in (stored, stored + ENDS):
        raise UserError(f"quantise={wanted}, and this checkpoint is stored in {stored}", f"leave quantise={stored}")
    return wanted or stored


def layout_of(config: PreTrainedConfig, form: str) -> Layout:
    """How the linear layers of a base in this format lie in memory; UserError where its config does not say."""
    if form in WRITERS:
        return integer_checkpoints.layout_of(config.to_dict()["quantization_config"])
    if form == TORCHAO:
        raise UserError("how large a checkpoint of torchao is in memory is not told by its config", "plan its original")
    return Layout(8 if of_layers(form) == INT8 else 4)


def check_format(form: str) -> None:
    """UserError for a format that is none."""
    if form not in (*FORMATS, *WITH_ENDS):
        raise unknown("format of quantised weights", form, (*FORMATS, *WITH_ENDS))


def is_plain(config: PreTrainedConfig, wanted: str) -> bool:
    """Whether the base will stand on the layers of `plain.py`: in NF4, where bitsandbytes is not installed."""
    return of_layers(wanted or format_of_checkpoint(config)) == NF4 and not _has("bitsandbytes")


def of_layers(form: str) -> str:
    """The format of the linear layers alone."""
    return form.removesuffix(ENDS)


def why_rows_mix(form: str) -> str:
    """Why what a base in this format makes of a row depends on those beside it; "" where it does not."""
    return "a row's int8 products depend on the rows beside it" if of_layers(form) == INT8 else ""


def finish_loading(model: PreTrainedModel, wanted: str) -> None:
    """What is left to do behind `from_pretrained` of a base in the format `wanted`, or in that of its checkpoint."""
    keep_layout(model)
    pack_ends(model, wanted)
    leave_file(model)


def in_one_precision(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Put what is not packed of a base that was stored in 8 bits into `dtype`, as it should be loaded: transformers
    leaves every `weight` beside the packed ones in what it was stored in."""
    packed, kept = packed_weights(model), model._keep_in_fp32_modules_strict or ()
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and name not in packed and not any(each in name for each in kept):
            parameter.data = parameter.data.to(dtype)


def pack_ends(model: PreTrainedModel, wanted: str) -> None:
    """Pack the embedding and the head of a base whose layers have been loaded, where the format `wanted`, or that of
    its checkpoint, has them so."""
    if (wanted or format_of_checkpoint(model.config)).endswith(ENDS):
        ends.pack_ends(model, model.dtype)


def format_of_checkpoint(config: PreTrainedConfig) -> str:
    """The format that a checkpoint's config says its weights are in, "" for plain ones; UserError for a stranger's."""
    told = config.to_dict().get("quantization_config")
    if not told:
        return ""
    by, at_ends = told.get("quant_method"), ENDS if ends.MARK in vars(config) else ""
    if by in WRITERS:
        integer_checkpoints.check(told)
        return by
    if by == TORCHAO and _packs_weights_alone(told):
        return TORCHAO
    if by != "bitsandbytes":
        raise UserError(
            f"this checkpoint is quantised by {by!r}{', inputs or embeddings too' if by == TORCHAO else ''}; what "
            "bitsandbytes, GPTQ and AWQ wrote is read, and what torchao wrote of linear weights alone",
            hint=integer_checkpoints.FROM_ORIGINAL,
        )
    return (INT8 if told.get("load_in_8bit") else told.get("bnb_4bit_quant_type", FP4)) + at_ends


def _packs_weights_alone(told: dict[str, Any]) -> bool:
    """Of torchao's configuration: no inputs of layers, and no embeddings."""
    kind = told.get("quant_type")
    named = kind.get("default", {}).get("_type", "") if isinstance(kind, dict) else ""
    return named.endswith("WeightOnlyConfig") and not told.get("include_input_output_embeddings")


def format_of(model: PreTrainedModel) -> str:
    """The format a loaded model's linear weights are in, "" where they are plain."""
    return format_of_checkpoint(model.config) if packed_weights(model) else ""


def is_quantised(module: nn.Module) -> bool:
    """Whether its weight is stored packed; nothing is imported to tell."""
    if isinstance(module, plain.NF4Linear | IntegerLinear | PackedShell | ends.EightBitEnd):
        return True
    if subclassed.is_packed(module):
        return True
    return "bitsandbytes" in sys.modules and isinstance(module, _packed_layers().LAYERS)


def packed_weights(model: nn.Module) -> dict[str, nn.Module]:
    """Name of a weight that is stored packed -> its module."""
    return {f"{path}.weight": module for path, module in model.named_modules() if is_quantised(module)}


def dequantised_weight(module: nn.Module) -> Tensor:
    """The weight (d_out, d_in) that a quantised module acts with, a new tensor."""
    return module.dequantised() if isinstance(module, PackedShell) else _layers_of(module).weight_of(module)


def pack(module: nn.Module, weight: Tensor) -> None:
    """Pack another weight (d_out, d_in) into a quantised module, as its own was: the base becomes another base."""
    _layers_of(module).pack(module, weight)


def codes_of(module: nn.Module) -> FourBits | EightBits | None:
    """What a quantised module keeps in place of its weight; None where it may pack that anew while it runs."""
    return _layers_of(module).codes_of(module)


def scales(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The numbers that turn codes into weights, by name."""
    for name, module in packed_weights(model).items():
        for index, scale in enumerate(_layers_of(module).scales_of(module)):
            yield f"{name}.scale{index}", scale


def keep_layout(model: nn.Module) -> None:
    """See to it that packed weights stay as they are while the model runs; see `packed.Dequantising`."""
    for module in packed_weights(model).values():
        _layers_of(module).keep_layout(module)


def leave_file(model: nn.Module) -> None:
    """Copy what a packed base holds in full out of its checkpoint's mapping, which keeps every page that was read."""
    for tensor in chain(model.parameters(), model.buffers()) if packed_weights(model) else ():
        if tensor.is_floating_point() and tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()


def dequantise(model: PreTrainedModel) -> PreTrainedModel:
    """Put plain layers with the dequantised weights in place of the packed ones; `model` itself is changed."""
    if ends.MARK in vars(model.config):
        ends.unpack_ends(model)
    # transformers' own weights come from the kernel that `packed.weight_of` works round, and none is a Conv1D again
    plain_layers = {name: _plain_layer(module, model.dtype) for name, module in packed_weights(model).items()}
    if _by_bitsandbytes(model):
        model.dequantize()
    else:
        del model.config.quantization_config
        vars(model).pop("hf_quantizer", None)  # which would save it as what it was read from
    for name, layer in plain_layers.items():
        model.set_submodule(name.removesuffix(".weight"), layer)
    return model


def _configuration(wanted: str, dtype: torch.dtype, kept: Sequence[str]) -> BitsAndBytesConfig:
    skipped = list(kept) or None  # of 4 bits as well, whatever the name of the field
    if wanted == INT8:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skipped)
    return BitsAndBytesConfig(
        llm_int8_skip_modules=skipped,
        load_in_4bit=True,
        bnb_4bit_quant_type=wanted,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def require(what: str, *libraries: str, hint: str = plain.INSTALL) -> None:
    """UserError where a library, of the extra `quant` or another, is not installed; `what` says who would need it."""
    missing = [name for name in libraries if not _has(name)]
    if missing:
        raise UserError(f"{what} {' and '.join(missing)}", hint)
    # it tells of a kernel it could download, and at every product that int8 casts its input
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def _has(library: str) -> bool:
    return importlib.util.find_spec(library) is not None


def _layers_of(module: nn.Module) -> ModuleType:
    """The file that knows this kind of packed layer."""
    if subclassed.is_packed(module):
        return subclassed
    if isinstance(module, ends.EightBitEnd):
        return ends
    if isinstance(module, IntegerLinear):
        return packed_integers
    return plain if isinstance(module, plain.NF4Linear) else _packed_layers()


def _by_bitsandbytes(model: PreTrainedModel) -> bool:
    found = next(iter(packed_weights(model).values()), None)
    return found is not None and _layers_of(found) not in (plain, packed_integers, subclassed)


def _plain_layer(module: Any, dtype: torch.dtype) -> nn.Module:
    """What a packed layer was packed from, as far as its codes tell."""
    weight, is_transposed = dequantised_weight(module).to(dtype), vars(module).get("source_cls") is Conv1D
    with torch.device("meta"):
        layer = Conv1D(*weight.shape) if is_transposed else nn.Linear(*reversed(weight.shape), bias=False)
    layer.weight, layer.bias = nn.Parameter(weight.T.contiguous() if is_transposed else weight), module.bias
    return layer


def _packed_layers() -> ModuleType:
    from tunewise.models import packed  # imports bitsandbytes: seconds, for those who need it

    return packed
