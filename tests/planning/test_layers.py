"""Deltas without numbers, copied instead of made once more."""

import pytest
import torch

from tunewise.methods import parse_method
from tunewise.planning.layers import hollow
from tunewise.planning.shell import shell_of


@pytest.fixture(scope="module")
def anatomy():
    return shell_of("tiny").anatomy


def deltas_of(method, anatomy, n=4):
    with torch.device("meta"):
        made = parse_method(method).deltas(anatomy)
    return dict(list(made.items())[:n])


@pytest.mark.parametrize("method", ["lora", "dora", "bottleneck", "compacter", "ia3"])
def test_copies_have_the_tensors_that_were_made_and_share_what_is_shared(method, anatomy):
    deltas = deltas_of(method, anatomy)
    copies = hollow(deltas)
    assert list(copies) == list(deltas)
    places = {}
    for name, delta in deltas.items():
        copied = dict(copies[name].named_parameters())
        assert type(copies[name]) is type(delta)
        assert {of: (p.shape, p.dtype) for of, p in copied.items()} == {
            of: (p.shape, p.dtype) for of, p in delta.named_parameters()
        }
        for of, parameter in delta.named_parameters():
            assert copied[of].device.type == "cpu"
            assert copied[of].requires_grad == parameter.requires_grad
            places.setdefault(id(parameter), set()).add(id(copied[of]))
    assert {len(copies) for copies in places.values()} == {1}
    assert len(places) < sum(len(list(delta.parameters())) for delta in deltas.values()) or method != "compacter"


@pytest.mark.parametrize("method", ["vera", {"name": "lora", "init": "pissa"}])
def test_those_with_buffers_are_to_be_made_anew(method, anatomy):
    assert hollow(deltas_of(method, anatomy)) is None
