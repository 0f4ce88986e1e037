"""Checkpoints as gptqmodel, AutoAWQ and compressed-tensors write them, by their definition: codes are one long number.

Weights are rounded to the nearest code in float64, group by group; a line of codes c0 c1 ... is the number
Σ ci 2^(bits i), cut into words of 32 bits.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

GROUP = 16
LAYER = re.compile(r"(model\.layers|transformer\.h)\.\d+\..*(proj|attn|fc)\.weight$")
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True)
class Form:
    """One way to store a weight."""

    by: str
    bits: int = 4
    symmetric: bool = True
    act_order: bool = False
    version: str = "gptq"

    @property
    def config(self) -> dict[str, object]:
        """What config.json says of it."""
        if self.by == "awq":
            return {
                "quant_method": "awq", "bits": self.bits, "group_size": GROUP, "version": "gemm",
                "zero_point": not self.symmetric,
            }  # fmt: skip
        if self.by == "gptq":
            return {
                "quant_method": "gptq", "bits": self.bits, "group_size": GROUP, "checkpoint_format": self.version,
                "desc_act": self.act_order, "sym": self.symmetric,
            }  # fmt: skip
        weights = {
            "num_bits": self.bits, "type": "int", "symmetric": self.symmetric, "strategy": "group", "group_size": GROUP,
        }  # fmt: skip
        groups = {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": None}}
        told = {"quant_method": self.by, "format": "pack-quantized", "quantization_status": "compressed"}
        return {**told, "config_groups": groups, "ignore": ["lm_head"]}

    def __str__(self) -> str:
        marks = "sym" if self.symmetric else "asym", "act_order" if self.act_order else ""
        return "-".join(filter(None, [self.by, self.version[5:], str(self.bits), *marks]))


def pack_folder(folder: Path, form: Form, dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    """Put the layers of a model folder into this form, all else into `dtype`; what they stand for, in float64."""
    file, dense = folder / "model.safetensors", {}
    stored: dict[str, Tensor] = {}
    for name, tensor in load_file(file).items():
        if LAYER.match(name) is None:
            stored[name] = tensor.to(dtype)
            dense[name] = stored[name].double()
            continue
        is_transposed = name.startswith("transformer.h.")  # GPT-2's, as in memory; a packed one lies like any other
        parts, found = packed((tensor.T if is_transposed else tensor).double().numpy(), form)
        dense[name] = found.T if is_transposed else found
        stored |= {name.removesuffix("weight") + part: value for part, value in parts.items()}
    save_file({name: tensor.contiguous() for name, tensor in stored.items()}, file)
    told = {"quantization_config": form.config, "dtype": str(dtype).removeprefix("torch.")}
    config = json.loads((folder / "config.json").read_text("utf-8")) | told
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    return dense


def packed(weight: NDArray[np.float64], form: Form) -> tuple[dict[str, Tensor], Tensor]:
    """What a file has of a weight (d_out, d_in), and what that stands for, in float64."""
    d_out, d_in = weight.shape
    groups = np.arange(d_in) // GROUP
    if form.act_order:
        groups = np.random.default_rng(d_in).permutation(groups)
    codes, scales, zeros = _rounded(weight, groups, form)
    dense = torch.from_numpy((codes - zeros[:, groups]) * scales[:, groups])
    halves, n = torch.from_numpy(scales).half(), 1 << form.bits
    if form.by == "awq":
        columns = np.arange(d_out).reshape(-1, 8)[:, AWQ_ORDER].flatten()
        parts = {"qweight": _words(codes.T[:, columns], form.bits), "qzeros": _words(zeros.T[:, columns], form.bits)}
        return {**parts, "scales": halves.T}, dense
    if form.by == "gptq":
        told = (zeros - 1) % n if form.version == "gptq" else zeros
        parts = {"qweight": _words(codes, form.bits).T, "qzeros": _words(told.T, form.bits), "scales": halves.T}
        return {**parts, "g_idx": torch.from_numpy(groups).int()}, dense
    found = {
        "weight_packed": _words(codes, form.bits),
        "weight_scale": halves,
        "weight_shape": torch.tensor([d_out, d_in]),
    }
    if not form.symmetric:
        found["weight_zero_point"] = _words(zeros.T, form.bits).T
    if form.act_order:
        found["weight_g_idx"] = torch.from_numpy(groups).int()
    return found, dense


def _rounded(weight: NDArray[np.float64], groups: NDArray[np.int64], form: Form) -> tuple[NDArray, ...]:
    """Codes (d_out, d_in), scales as float16 has them and zeros, (d_out, groups); no zero is 0, for GPTQ's sake."""
    most, parts = (1 << form.bits) - 1, [weight[:, groups == group] for group in range(groups.max() + 1)]
    if form.symmetric:
        scales = np.stack([2 * np.abs(part).max(1) / most for part in parts], 1)
    else:
        scales = np.stack([np.ptp(part, axis=1) / (most - 1) for part in parts], 1)
    scales = scales.astype(np.float16).astype(np.float64)
    zeros = np.full(scales.shape, 1 << form.bits - 1)
    if not form.symmetric:
        zeros = np.clip(np.stack([-part.min(1) for part in parts], 1) / scales, 1, most).round().astype(int)
    codes = np.clip((weight / scales[:, groups]).round() + zeros[:, groups], 0, most).astype(int)
    return codes, scales, zeros


def _words(lines: NDArray[np.int64], bits: int) -> Tensor:
    """(rows, n) -> int32 (rows, n bits / 32): each row one long number, in words."""
    return torch.tensor([_cut([int(code) for code in line], bits) for line in lines], dtype=torch.int64).to(torch.int32)


def _cut(codes: Sequence[int], bits: int) -> list[int]:
    number = sum(code << bits * place for place, code in enumerate(codes))
    return [number >> 32 * word & 0xFFFFFFFF for word in range(-(-len(codes) * bits // 32))]
