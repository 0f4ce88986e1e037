"""What packed layers store, and what stays of the file that they were packed from."""

from pathlib import Path

import pytest
import torch

from tests import bases
from tests.small_base import write_base
from tunewise.models.codes import Constants, EightBits, FourBits
from tunewise.models.load import load_base
from tunewise.models.quantise import codes_of, dequantised_weight, packed_weights

MAPS = Path("/proc/self/maps")


@pytest.mark.skipif(not MAPS.is_file(), reason="what is mapped is told on Linux")
def test_no_page_of_the_checkpoint_stays_mapped(tmp_path):
    folder = write_base(tmp_path / "base")
    plain = load_base(str(folder), "float32")
    assert str(folder) in MAPS.read_text()  # as long as the weights are views of it
    del plain
    base = load_base(str(folder), "float32", quantise="nf4")
    assert str(folder) not in MAPS.read_text()
    assert torch.isfinite(base.model(torch.tensor([[5, 9, 33]])).logits).all()


@pytest.mark.parametrize("form", ["nf4", "fp4"])
def test_four_bits_are_told(form):
    for layer in packed_weights(bases.quantised(form)).values():
        codes = codes_of(layer)
        assert isinstance(codes, FourBits)
        assert isinstance(codes.constants, Constants)
        constants = codes.constants.values[codes.constants.codes.int()].double()
        scales = codes.constants.scales.repeat_interleave(codes.constants.block)[: len(constants)].double()
        each = torch.stack([codes.packed.flatten() >> 4, codes.packed.flatten() & 15], dim=1).flatten()
        values = codes.values[each.int()].double()
        told = values * (constants * scales + codes.constants.mean).repeat_interleave(codes.block)[: len(values)]
        torch.testing.assert_close(dequantised_weight(layer).double(), told.view(codes.shape), rtol=1e-5, atol=1e-7)


def test_eight_bits_are_told():
    for layer in packed_weights(bases.quantised("int8")).values():
        codes = codes_of(layer)
        assert isinstance(codes, EightBits)
        torch.testing.assert_close(dequantised_weight(layer), codes.codes * codes.scales[:, None] / 127)
