"""Sums of raw bits: whatever moves in a weight moves its sum, wherever the weight lies."""

import pytest
import torch
from torch import nn

from tunewise.models.fingerprint import checksums


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n", [1, 3, 8, 33])
def test_a_weight_that_moves_by_its_last_bit_has_another_sum(dtype, n):
    model = nn.Module()
    stored = torch.linspace(1, 2, n + 1).to(dtype)
    model.weight = nn.Parameter(stored[1:])  # which begins in the middle of eight bytes, but in float64
    whole = nn.Module()
    whole.weight = nn.Parameter(stored[1:].clone())
    before = checksums(model)
    assert before == checksums(whole)
    for place in range(n):
        with torch.no_grad():
            was = model.weight[place].clone()
            model.weight[place] = torch.nextafter(was, torch.tensor(9.0, dtype=dtype))
            assert checksums(model) != before
            model.weight[place] = was
    assert checksums(model) == before
