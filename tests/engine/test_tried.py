"""What is tried of a model is tried again where something else acts on it, and not for other seeds of a method."""

import pytest
import torch

from tests import bases
from tunewise.engine.tried import note, tried
from tunewise.methods import parse_method
from tunewise.methods.attach import attach


@pytest.fixture
def asked():
    model, count = bases.build("llama", torch.float32), []

    def ask(what=("trial",)):
        """Whether it is tried now."""
        before = len(count)
        assert tried(model, what, lambda: count.append(1) or "found") == "found"
        return len(count) > before

    return model, ask


def test_another_seed_of_a_method_is_not_tried_and_other_fields_are(asked):
    model, ask = asked
    assert ask()
    found = {}
    for name, fields, seed in (("lora", {"rank": 2}, 0), ("lora", {"rank": 2}, 1), ("lora", {"rank": 4}, 0)):
        tuned = attach(model, parse_method({"name": name, **fields}), seed=seed)
        found[fields["rank"], seed] = ask()
        with tuned.disabled():
            found[fields["rank"], seed, "off"] = ask()
        tuned.detach()
    off = {(2, 0, "off"): True, (2, 1, "off"): False, (4, 0, "off"): True}
    assert found == {(2, 0): True, (2, 1): False, (4, 0): True} | off
    assert not ask()
    assert ask(("trial", 11))


def test_a_method_that_has_no_hook_is_its_base_and_a_hook_of_others_is_told_by_its_number(asked):
    model, ask = asked
    assert ask()
    tuned = attach(model, parse_method("full"))
    assert not ask()
    tuned.detach()
    for _ in range(2):
        hook = model.register_forward_pre_hook(lambda module, args: None)
        assert ask()
        hook.remove()
    assert not ask()
    model.double()
    assert ask()
    note(model, ("other",), "found")
    assert not ask(("other",))
