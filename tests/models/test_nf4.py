"""NF4 in plain torch against bitsandbytes, bit for bit, and against the definition."""

import bitsandbytes.functional as bnb
import pytest
import torch
from scipy.stats import norm

from tunewise.models import nf4

SHAPES = [(256, 192), (64, 64), (512, 256), (7, 10), (128, 320)]


def weight(shape: tuple[int, int], seed: int = 0) -> torch.Tensor:
    return 0.02 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_codebooks_are_those_of_bitsandbytes_bit_for_bit():
    assert torch.equal(nf4.codebook(), bnb.get_4bit_type("nf4", device="cpu"))
    assert torch.equal(nf4.dynamic_codebook(), bnb.create_dynamic_map())


def test_the_codebook_is_made_of_quantiles_of_the_normal_distribution():
    code = nf4.codebook().double()
    assert (code[0], code[7], code[15]) == (-1, 0, 1)
    assert (code.diff() > 0).all()
    share = torch.from_numpy(norm.cdf(code.numpy() * norm.ppf(nf4.OUTERMOST)))
    for half in (share[:8], share[7:]):  # equal shares of the distribution between neighbours, on either side of zero
        torch.testing.assert_close(half.diff(), half.diff().mean().expand(len(half) - 1), rtol=1e-5, atol=0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_codes_and_constants_are_those_of_bitsandbytes_bit_for_bit(shape, seed):
    packed, state = bnb.quantize_4bit(weight(shape, seed), quant_type="nf4", compress_statistics=True)
    found = nf4.quantise(weight(shape, seed))
    assert torch.equal(found.packed, packed)
    assert torch.equal(found.mean, state.offset)
    assert torch.equal(found.constants.constants, state.state2.absmax)
    _, plain = bnb.quantize_4bit(weight(shape, seed), quant_type="nf4", compress_statistics=False)
    assert torch.equal(nf4.to_blocks(weight(shape, seed).flatten(), nf4.codebook(), nf4.BLOCK).constants, plain.absmax)
    # its kernel for float32 on a CPU finds the nearest constant from a table and misses it at a border now and then;
    # in float64 it compares them all
    exact, _ = torch.ops.bitsandbytes.quantize_blockwise.default(
        (plain.absmax - state.offset).double(), bnb.create_dynamic_map(), nf4.BLOCK_OF_CONSTANTS
    )
    assert torch.equal(found.constants.codes, exact)
    assert (found.constants.codes.int() - state.absmax.int()).abs().max() <= 1


@pytest.mark.parametrize("shape", SHAPES)
def test_dequantised_values_are_those_of_bitsandbytes_bit_for_bit(shape):
    packed, state = bnb.quantize_4bit(weight(shape), quant_type="nf4", compress_statistics=True)
    codes = torch.stack([packed.flatten() >> 4, packed.flatten() & 15], dim=1).flatten()
    constants = nf4.Blocks(state.absmax, state.state2.absmax)
    found = nf4.dequantise(nf4.Quantised(codes, constants, state.offset, state.shape))
    assert torch.equal(found, bnb.dequantize_4bit(packed, state))


def test_the_error_is_what_four_bits_of_a_normal_distribution_allow():
    w = weight((512, 512))
    error = (nf4.dequantise(nf4.quantise(w)) - w).norm() / w.norm()
    assert 0.09 < error < 0.095
    zero = torch.zeros(4, 64)
    assert torch.equal(nf4.dequantise(nf4.quantise(zero)), zero)
