"""What GPTQ, AWQ and compressed-tensors put into a file for a linear layer, made whole numbers again.

Each is codes of 2, 3, 4 or 8 bits with scales and zeros by group, packed into words of 32 bits, the first code in the
lowest bits; three bits run on over the border of a word. Of a weight (d_out, d_in) in G groups of inputs a file has

| | codes | zeros | scales | group of an input |
|---|---|---|---|---|
| GPTQ | qweight, d_in packed, (·, d_out) | qzeros (G, ·), d_out packed | (G, d_out) | g_idx (d_in,) |
| AWQ, gemm | qweight (d_in, ·), d_out packed | qzeros (G, ·), d_out packed | (G, d_out) | by its place |
| compressed-tensors | weight_packed (d_out, ·) | weight_zero_point (·, G) | weight_scale (d_out, G) | weight_g_idx |

GPTQ's first format has one less in the place of each zero, taken off word by word, and its second (gptq_v2) the zeros
themselves; where it is symmetric all are 2^(bits-1). AWQ puts eight columns into a word in the order 0 2 4 6 1 3 5 7.
compressed-tensors adds 2^(bits-1) to signed codes and zeros, and writes no zeros where it is symmetric.
Sources: gptqmodel 7.7 (nn_modules/qlinear), AutoAWQ 0.2.9 (modules/linear/gemm.py), compressed-tensors 0.20
(compressors/pack_quantized), each held against what its own code unpacks.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tunewise.models.packed_integers import Integers

GPTQ, AWQ, COMPRESSED = WRITERS = ("gptq", "awq", "compressed-tensors")
"""What `quant_method` is in the config of each."""
BITS = (2, 3, 4, 8)
COLUMNS_OF_AWQ = (0, 2, 4, 6, 1, 3, 5, 7)


def read(tensors: Mapping[str, Tensor], d_out: int, d_in: int, told: Mapping[str, Any]) -> Integers:
    """The weight (d_out, d_in) that these tensors of a layer hold, by what the config has `told`.

    Raises KeyError for a tensor that is not there, and ValueError for such as do not go together.
    """
    whole = {GPTQ: _of_gptq, AWQ: _of_awq, COMPRESSED: _of_compressed}[told["quant_method"]](tensors, d_out, d_in, told)
    _check_shapes(whole, d_out, d_in)
    return whole


def _check_shapes(whole: Integers, d_out: int, d_in: int) -> None:
    if whole.codes.shape != (d_out, d_in) or whole.zeros.shape != whole.scales.shape or len(whole.scales) != d_out:
        raise ValueError("its shapes do not go together")
    if len(whole.groups) != d_in or whole.groups.min() < 0:
        raise ValueError("not every input has a group")


def _of_gptq(tensors: Mapping[str, Tensor], d_out: int, d_in: int, told: Mapping[str, Any]) -> Integers:
    words, zeros, bits = tensors["qweight"], tensors["qzeros"], _bits(len(tensors["qweight"]), d_in)
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
    bits, scales = _bits(words.shape[1], d_in), scales.expand(d_out, -1)
    zeros = torch.full(scales.shape, 1 << bits - 1, dtype=torch.uint8)
    if (found := tensors.get("weight_zero_point")) is not None:  # which earlier releases left unpacked
        zeros = (found + zeros).to(torch.uint8) if found.dtype == torch.int8 else unpacked(found, bits, d_out)
    groups = tensors.get("weight_g_idx", torch.tensor(-1)).long()
    groups = groups if groups.min() >= 0 else _in_place(d_in, scales.shape[1])
    return Integers(unpacked(words.T, bits, d_in).T, scales, zeros, groups, bits)


def _bits(n_words: int, n: int) -> int:
    """Of each of n codes in so many words; layers of one checkpoint may differ."""
    bits = n_words * 32 // n
    if bits not in BITS:
        raise ValueError(f"its codes have {bits} bits, and those of 2, 3, 4 and 8 are read")
    return bits


def _in_place(d_in: int, n_groups: int) -> Tensor:
    if d_in % n_groups:
        raise ValueError(f"{d_in} inputs are not {n_groups} groups")
    return torch.arange(n_groups).repeat_interleave(d_in // n_groups)


def unpacked(words: Tensor, bits: int, n: int) -> Tensor:
    """int32 (·, m) -> uint8 (n, m): of each column n codes of so many bits, one behind another from the lowest."""
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
