"""NF4 written out in plain torch: the 4-bit codes that QLoRA keeps a frozen weight in, and their constants.

Dettmers et al. 2023, arXiv:2305.14314. Weights are nearly normal, so the 16 values of the code are quantiles of a
normal distribution, scaled to [-1, 1], with an exact zero (section 3, eq. 4, appendix E). A weight is cut into blocks
of 64, each divided by its largest magnitude and rounded to the nearest value; these magnitudes are kept in 8 bits, in
blocks of 256 (double quantisation, section 3): 4 + 8/64 + 32/(64 · 256) = 4.127 bits a weight. Bases are quantised by
bitsandbytes; this is what it does, bit for bit, to read, to test against, and where it is not installed (`plain.py`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK, BLOCK_OF_CONSTANTS = 64, 256
OUTERMOST = 0.9677083  # (1 - 1/30 + 1 - 1/32) / 2, to the digits of the authors: the last quantile that is used


def codebook() -> Tensor:
    """The 16 values of NF4 (16,), ascending: 7 below zero, zero, 8 above; asymmetric, so that zero is one of them."""
    above = _normal_quantiles(torch.linspace(OUTERMOST, 0.5, 9)[:-1])
    below = -_normal_quantiles(torch.linspace(OUTERMOST, 0.5, 8)[:-1])
    values = torch.cat([below, torch.zeros(1), above.flip(0)])
    return values / values.max()


def dynamic_codebook() -> Tensor:
    """The 256 values (256,) for the constants: a sign, a decimal exponent in unary, the rest a linear fraction.

    Dynamic tree quantisation: Dettmers et al. 2022, arXiv:2110.02861, section 2.1.
    """
    magnitudes = []
    for exponent in range(7):
        edges = torch.linspace(0.1, 1, 2**exponent + 1)
        magnitudes.append(10.0 ** (exponent - 6) * ((edges[:-1] + edges[1:]) / 2))
    positive = torch.cat(magnitudes)
    return torch.cat([-positive, positive, torch.tensor([0.0, 1.0])]).sort().values


@dataclass(frozen=True)
class Blocks:
    """A tensor as codes with a constant for each block."""

    codes: Tensor  # uint8, one a value, in the order of the flattened tensor
    constants: Tensor  # float32, the largest magnitude of each block


@dataclass(frozen=True)
class Quantised:
    """A weight in NF4 with double quantisation."""

    codes: Tensor  # uint8 (n,), 0 to 15
    constants: Blocks  # of the blocks' constants, less their mean
    mean: Tensor  # 0-d
    shape: torch.Size

    @property
    def packed(self) -> Tensor:
        """Two codes a byte, the first in the upper half: (n / 2, 1), as bitsandbytes stores them."""
        return (self.codes[::2] << 4 | self.codes[1::2]).unsqueeze(1)


def quantise(weight: Tensor) -> Quantised:
    """`weight` (any shape, an even number of values) in NF4."""
    blocks = to_blocks(weight.flatten().float(), codebook(), BLOCK)
    mean = blocks.constants.mean()
    constants = to_blocks(blocks.constants - mean, dynamic_codebook(), BLOCK_OF_CONSTANTS)
    return Quantised(blocks.codes, constants, mean, weight.shape)


def dequantise(quantised: Quantised) -> Tensor:
    """The weight that the codes stand for, float32."""
    constants = from_blocks(quantised.constants, dynamic_codebook(), BLOCK_OF_CONSTANTS) + quantised.mean
    return from_blocks(Blocks(quantised.codes, constants), codebook(), BLOCK).view(quantised.shape)


def to_blocks(values: Tensor, code: Tensor, size: int) -> Blocks:
    """Each block of `values` (n,) divided by its largest magnitude and rounded to the nearest of `code`."""
    padded = torch.nn.functional.pad(values, (0, -len(values) % size)).view(-1, size)
    constants = padded.abs().amax(1)
    scaled = (padded * (1 / constants.clamp(min=1e-38)).unsqueeze(1)).flatten()[: len(values)]
    halfway = (code[:-1] + code[1:]) / 2
    return Blocks(torch.bucketize(scaled, halfway).to(torch.uint8), constants)


def from_blocks(blocks: Blocks, code: Tensor, size: int) -> Tensor:
    """The values (n,) again."""
    return code[blocks.codes.int()] * blocks.constants.repeat_interleave(size)[: len(blocks.codes)]


def _normal_quantiles(probabilities: Tensor) -> Tensor:
    """Q_X of eq. 4 for a standard normal X."""
    return torch.special.ndtri(probabilities.double()).float()
