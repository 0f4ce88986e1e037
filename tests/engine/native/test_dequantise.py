"""Weights made of codes by the C++ kernel against the definition in plain torch, bit for bit."""

import pytest
import torch
from bitsandbytes.functional import get_4bit_type

from tunewise.engine.native.build import library, why_not
from tunewise.engine.native.dequantise import dequantised
from tunewise.models import nf4
from tunewise.models.codes import Constants, EightBits, FourBits

pytestmark = pytest.mark.skipif(library() is None, reason=f"no kernels here: {why_not()}")
SHAPES = [(64, 64), (7, 10), (33, 50), (96, 192), (1, 62), (300, 200)]  # within one thread and beyond, and rows that
# end inside a block


def drawn(shape, seed=0):
    return 0.02 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", SHAPES)
def test_nf4_with_constants_in_eight_bits(shape):
    found = nf4.quantise(drawn(shape))
    constants = Constants(
        found.constants.codes, nf4.dynamic_codebook(), nf4.BLOCK_OF_CONSTANTS, found.constants.constants, found.mean
    )
    codes = FourBits(found.packed, nf4.codebook(), nf4.BLOCK, constants, found.shape, torch.float32)
    wanted = nf4.dequantise(found)
    assert torch.equal(dequantised(codes, torch.float32), wanted)
    assert torch.equal(dequantised(codes, torch.bfloat16), wanted.bfloat16())


@pytest.mark.parametrize("shape", [*SHAPES, (9, 7)])
@pytest.mark.parametrize("block", [32, 64, 256])
@pytest.mark.parametrize("form", ["nf4", "fp4"])
def test_four_bits_with_plain_constants(shape, block, form):
    """Every code at every place of a block, an odd number of weights too."""
    n, values = shape[0] * shape[1], get_4bit_type(form, device="cpu")
    each = torch.randint(16, (n + n % 2,), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    constants = drawn((n + block - 1) // block, seed=2).abs()
    wanted = nf4.from_blocks(nf4.Blocks(each[:n], constants), values, block).view(shape)
    packed = (each[::2] << 4 | each[1::2]).unsqueeze(1)
    codes = FourBits(packed, values, block, constants, torch.Size(shape), torch.float32)
    assert torch.equal(dequantised(codes, torch.float32), wanted)
    assert torch.equal(dequantised(codes, torch.bfloat16), wanted.bfloat16())


@pytest.mark.parametrize("shape", SHAPES)
def test_eight_bits(shape):
    whole = torch.randint(-127, 128, shape, dtype=torch.int8, generator=torch.Generator().manual_seed(1))
    scales = drawn(shape[0], seed=2).abs()
    wanted = whole.float() * (scales * (1 / 127)).unsqueeze(1)
    assert torch.equal(dequantised(EightBits(whole, scales), torch.float32), wanted)
    assert torch.equal(dequantised(EightBits(whole, scales), torch.bfloat16), wanted.bfloat16())
