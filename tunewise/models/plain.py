"""Linear layers in NF4 without bitsandbytes: `nf4.py`'s codes, saved and read as bitsandbytes saves and reads them.

Double quantisation in blocks of 64 and 256, as everywhere here. Constants may differ by one step of their 8 bits from
those that bitsandbytes finds (its table misses a border now and then); what is read from a checkpoint is the same.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module

from tunewise.errors import UserError
from tunewise.models import nf4
from tunewise.models.codes import Constants, FourBits, product

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
INSTALL = "pip install 'tunewise[quant]'"
STATE = "weight.quant_state.bitsandbytes__nf4"
"""What a checkpoint holds of a packed weight beside tensors: json as bytes."""


class NF4Linear(nn.Linear):
    """A frozen weight (d_out, d_in) in NF4, multiplied by as its dequantised values; the bias is as it was.

    `source_cls` is what transformers calls the class that it stands in the place of.
    """

    def __init__(self, codes: FourBits, bias: nn.Parameter | None, source_cls: type[nn.Module] = nn.Linear) -> None:
        nn.Module.__init__(self)
        self.source_cls = source_cls
        assert isinstance(codes.constants, Constants), "only constants that are quantised again"
        (self.out_features, self.in_features), self.dtype = codes.shape, codes.dtype
        self.weight, self.bias = nn.Parameter(codes.packed, requires_grad=False), bias
        self.register_buffer("constants", codes.constants.codes, persistent=False)
        self.register_buffer("scales", codes.constants.scales, persistent=False)
        self.register_buffer("mean", codes.constants.mean, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        return product(input, self.bias, partial(weight_of, self))

    def _save_to_state_dict(self, destination: dict[str, Tensor], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        told = {
            "quant_type": "nf4", "blocksize": nf4.BLOCK, "dtype": str(self.dtype).removeprefix("torch."),
            "shape": [self.out_features, self.in_features], "nested_blocksize": nf4.BLOCK_OF_CONSTANTS,
            "nested_dtype": "float32", "nested_offset": self.get_buffer("mean").item(),
        }  # fmt: skip
        destination[f"{prefix}weight.absmax"] = self.get_buffer("constants")
        destination[f"{prefix}weight.nested_absmax"] = self.get_buffer("scales")
        destination[f"{prefix}weight.quant_map"] = nf4.codebook()
        destination[f"{prefix}weight.nested_quant_map"] = nf4.dynamic_codebook()
        destination[prefix + STATE] = torch.tensor(list(json.dumps(told).encode()), dtype=torch.uint8)


def packed(weight: Tensor, dtype: torch.dtype) -> FourBits:
    """`weight` (d_out, d_in) in codes that are rounded to `dtype` when they are made a weight again."""
    found = nf4.quantise(weight)
    codes = Constants(
        found.constants.codes, nf4.dynamic_codebook(), nf4.BLOCK_OF_CONSTANTS, found.constants.constants, found.mean
    )
    return FourBits(found.packed, nf4.codebook(), nf4.BLOCK, codes, weight.shape, dtype)


def stored(tensors: Mapping[str, Tensor]) -> FourBits | None:
    """The codes of one layer of a checkpoint, by names as bitsandbytes writes them; None where they are not these."""
    told = json.loads(bytes(tensors[STATE].tolist())) if STATE in tensors else {}
    blocks = told.get("blocksize"), told.get("nested_blocksize")
    if blocks != (nf4.BLOCK, nf4.BLOCK_OF_CONSTANTS):
        return None
    codes = Constants(
        tensors["weight.absmax"],
        nf4.dynamic_codebook(),
        nf4.BLOCK_OF_CONSTANTS,
        tensors["weight.nested_absmax"],
        torch.tensor(told["nested_offset"]),
    )
    shape, dtype = torch.Size(told["shape"]), DTYPES[told["dtype"]]
    return FourBits(tensors["weight"], nf4.codebook(), nf4.BLOCK, codes, shape, dtype)


def read(folder: Path) -> tuple[dict[str, Tensor], dict[str, FourBits]]:
    """The plain tensors of a checkpoint, and module -> codes of what is packed.

    Raises UserError for weights that are packed otherwise than here.
    """
    tensors: dict[str, Tensor] = {}
    for file in sorted(folder.glob("model*.safetensors")):
        tensors |= load_file(file)
    found = {}
    for path in [name.removesuffix(f".{STATE}") for name in tensors if name.endswith(f".{STATE}")]:
        own = [name for name in tensors if name.startswith(f"{path}.weight")]
        codes = stored({name.removeprefix(f"{path}."): tensors.pop(name) for name in own})
        if codes is None:
            raise UserError(f"{folder} holds NF4 in other blocks than 64 and 256, which needs bitsandbytes", INSTALL)
        found[path] = codes
    return tensors, found


def packed_paths(model: PreTrainedModel, kept: Sequence[str] = ()) -> list[str]:
    """The linear layers that transformers would have bitsandbytes pack: not the modules `kept`, or where none is named
    a language model's head and what is tied to it, nor those that the class wants in float32 (T5's wo)."""
    skipped = HfQuantizer.get_modules_to_not_convert(model, list(kept) or None, model._keep_in_fp32_modules)
    linear = (path for path, module in model.named_modules() if type(module) in (nn.Linear, Conv1D))
    return [path for path in linear if should_convert_module(path, skipped)]


def pack_layers(model: PreTrainedModel, kept: Sequence[str] = ()) -> None:
    """Pack these linear layers of `model`; its config says so."""
    for path in packed_paths(model, kept):
        module = model.get_submodule(path)
        weight = module.weight.detach().T if type(module) is Conv1D else module.weight.detach()
        model.set_submodule(path, NF4Linear(packed(weight, weight.dtype), module.bias, type(module)))
    model.config.quantization_config = {
        "quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False, "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": str(model.dtype).removeprefix("torch."),
    }  # fmt: skip


def put_in(model: PreTrainedModel, codes: Mapping[str, FourBits]) -> None:
    """Put layers with these codes in place of the modules of `model` by those names; KeyError for none of that name."""
    modules = dict(model.named_modules())
    for path, each in codes.items():
        model.set_submodule(path, NF4Linear(each, modules[path].bias, type(modules[path])))


def keep_layout(layer: NF4Linear) -> None:
    """Nothing: it stays as it is."""


@torch.no_grad()
def weight_of(layer: NF4Linear) -> Tensor:
    """The weight (d_out, d_in) that a layer acts with, a new tensor."""
    return unpacked(codes_of(layer))


def unpacked(codes: FourBits) -> Tensor:
    """The weight (d_out, d_in) that codes stand for."""
    halves = torch.stack([codes.packed.flatten() >> 4, codes.packed.flatten() & 15], dim=1).flatten()
    assert isinstance(codes.constants, Constants)
    blocks = nf4.Blocks(codes.constants.codes, codes.constants.scales)
    return nf4.dequantise(nf4.Quantised(halves, blocks, codes.constants.mean, codes.shape)).to(codes.dtype)


def codes_of(layer: NF4Linear) -> FourBits:
    """What a layer keeps in place of its weight."""
    constants = Constants(
        layer.get_buffer("constants"), _values()[1], nf4.BLOCK_OF_CONSTANTS, layer.get_buffer("scales"),
        layer.get_buffer("mean"),
    )  # fmt: skip
    shape = torch.Size((layer.out_features, layer.in_features))
    return FourBits(layer.weight.data, _values()[0], nf4.BLOCK, constants, shape, layer.dtype)


def scales_of(layer: NF4Linear) -> list[Tensor]:
    """What turns codes into weights, as of a layer of bitsandbytes."""
    return [layer.get_buffer("constants"), layer.get_buffer("scales"), layer.get_buffer("mean").reshape(1)]


def pack(layer: NF4Linear, weight: Tensor) -> None:
    """Put `weight` (d_out, d_in) in place of the one that a layer holds."""
    again = NF4Linear(packed(weight.detach().float().cpu(), layer.dtype), None).to(layer.weight.device)
    layer.weight = again.weight
    for name, buffer in again.named_buffers():
        layer.register_buffer(name, buffer, persistent=False)


@cache
def _values() -> tuple[Tensor, Tensor]:
    return nf4.codebook(), nf4.dynamic_codebook()
