"""With activations computed again in the backward, nothing of a step stays behind: torch breaks the second forward off
as soon as it has what it needs, maybe between what enters a site and what leaves it."""

import gc

import pytest
import torch

from tests import bases
from tests.methods.promises import IDS
from tests.methods.test_contract import VARIANTS
from tunewise.methods import parse_method
from tunewise.methods.attach import attach


def held() -> int:
    """Bytes of all tensors that are alive."""
    gc.collect()
    tensors = [each for each in gc.get_objects() if type(each) in (torch.Tensor, torch.nn.Parameter)]
    return sum({each.data_ptr(): each.numel() * each.element_size() for each in tensors}.values())


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "frozen"])
def test_nothing_of_a_step_stays_behind(name):
    tuned = attach(bases.build("llama"), parse_method({"name": name, **VARIANTS[name][0]}), seed=1)
    tuned.model.gradient_checkpointing_enable({"use_reentrant": False})
    tuned.model.train()
    found = []
    for _ in range(3):
        bases.logits(tuned.model, IDS, tuned.prefix_ids).square().mean().backward()
        for parameter in tuned.trainable.values():
            parameter.grad = None
        found.append(held())
    assert found[1] == found[2] <= found[0]
