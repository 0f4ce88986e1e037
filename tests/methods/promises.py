"""What every method promises, as far as it is the same on dense and on quantised bases."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tests import bases
from tunewise.methods.attach import Tuned, attach
from tunewise.methods.base import Method

IDS = torch.tensor([[5, 9, 33, 20, 7, 41, 3], [8, 8, 60, 12, 50, 6, 11]])


def logits(model: PreTrainedModel, prefix: tuple[int, ...] = ()) -> Tensor:
    """What the model says of IDS, with virtual tokens before them where there are any."""
    with torch.no_grad():
        return bases.logits(model, IDS, prefix)


def with_prefix(prefix: tuple[int, ...]) -> Tensor:
    return torch.cat([torch.tensor([list(prefix)] * len(IDS), dtype=torch.long), IDS], dim=1)


def randomise(tuned: Tuned) -> None:
    """Move every trained tensor, so that the method has an effect."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in tuned.trainable.values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))


def assert_off_is_the_base(tuned: Tuned, base: Tensor, least_effect: float) -> None:
    """Switched off, a moved method gives the logits of the `base` bit for bit, and its own when it is on again."""
    randomise(tuned)
    changed = logits(tuned.model, tuned.prefix_ids)
    if tuned.trainable:
        assert (changed - base).abs().max() > least_effect
    tuned.off()
    assert tuned.prefix_ids == ()
    assert torch.equal(logits(tuned.model), base)
    tuned.on()
    assert torch.equal(logits(tuned.model, tuned.prefix_ids), changed)


def assert_no_other_gradients(tuned: Tuned) -> None:
    """Behind a backward: what is not declared has no gradient, and would get none."""
    declared = set(map(id, tuned.trainable.values()))
    for name, parameter in tuned.model.named_parameters():
        if id(parameter) not in declared:
            assert parameter.grad is None, name
            assert not parameter.requires_grad, name


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name


def assert_detached_is_the_base(model: PreTrainedModel, method: Method) -> None:
    """Bit for bit, the constants of packed weights included; and it can be attached again."""
    reference = copy.deepcopy(model)
    tuned = attach(model, method)
    randomise(tuned)
    as_tuned = logits(model, tuned.prefix_ids)
    assert tuned.detach() is model
    assert_same(dict(model.state_dict()), dict(reference.state_dict()))
    assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in reference.parameters()]
    assert torch.equal(logits(model), logits(reference))
    tuned.reattach()
    assert torch.equal(logits(model, tuned.prefix_ids), as_tuned)
    tuned.detach()


def assert_checkpointing_changes_no_gradient(attached: Callable[[], Tuned], rtol: float, atol: float) -> None:
    gradients = []
    for checkpointing in (False, True):
        tuned = attached()
        randomise(tuned)
        if checkpointing:
            tuned.model.gradient_checkpointing_enable({"use_reentrant": False})
        tuned.model.train()
        torch.manual_seed(0)
        bases.logits(tuned.model, IDS, tuned.prefix_ids).square().mean().backward()
        gradients.append({name: p.grad for name, p in tuned.trainable.items() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() != set()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=rtol, atol=atol)


def assert_generates_as_by_hand(tuned: Tuned) -> None:
    """transformers' generate, behind the virtual tokens, against the most probable token taken four times."""
    randomise(tuned)
    start = with_prefix(tuned.prefix_ids)[:1]
    generated = tuned.model.generate(
        start, attention_mask=torch.ones_like(start), max_new_tokens=4, do_sample=False, eos_token_id=None
    )
    writes_anew = tuned.model.config.is_encoder_decoder
    by_hand = torch.tensor([[tuned.model.generation_config.decoder_start_token_id]]) if writes_anew else start
    for _ in range(4):
        entered = {"input_ids": start, "decoder_input_ids": by_hand} if writes_anew else {"input_ids": by_hand}
        with torch.no_grad():
            step = tuned.model(**entered, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)
        by_hand = torch.cat([by_hand, step], dim=1)
    assert torch.equal(generated, by_hand)


def assert_acts_in_bfloat16(tuned: Tuned) -> None:
    """A base in bfloat16: its logits and its own parameters are, and what is added is in float32."""
    randomise(tuned)
    assert tuned.model(with_prefix(tuned.prefix_ids), use_cache=False).logits.dtype == torch.bfloat16
    for key, parameter in tuned.trainable.items():
        assert parameter.dtype == (torch.bfloat16 if key.startswith("base.") else torch.float32)
