"""A prefix inside encoders and encoder-decoders: its equation by hand, padding, generation, and what does not fit."""

import pytest
import torch
from torch import Tensor

from tests import bases
from tunewise.errors import UserError
from tunewise.methods import parse_method
from tunewise.methods.attach import Tuned, attach, count
from tunewise.models.weights import dense_weight

ENCODERS = ("bert_classes", "bert_tokens", "roberta_classes", "distilbert_classes")
ENCODER_DECODERS = ("t5", "t5_gated", "mt5", "bart")
LONG, SHORT, M = [5, 9, 33, 20, 7, 41, 3], [8, 12, 60], 3
PADDED = torch.tensor([LONG, SHORT + [0] * 4])
MASK = torch.tensor([[1] * 7, [1] * 3 + [0] * 4])
ANSWERS, ANSWERS_MASK = torch.tensor([[4, 5, 6, 7], [9, 8, 0, 0]]), torch.tensor([[1] * 4, [1, 1, 0, 0]])


def prefixed(family: str, placement: str = "everywhere") -> Tuned:
    """With a prefix of M tokens that has an effect."""
    fields = {"name": "prefix_tuning", "virtual_tokens": M, "init": "random", "placement": placement}
    tuned = attach(bases.build(family), parse_method(fields))
    generator = torch.Generator().manual_seed(4)
    for parameter in tuned.trainable.values():
        parameter.data.add_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return tuned


def entering(tuned: Tuned) -> dict[str, Tensor]:
    """What enters every site of the layers but its virtual columns, (2, length, d_in), in one pass."""
    seen: dict[str, Tensor] = {}

    def keep(name: str):
        return lambda module, args: seen.__setitem__(name, args[0][:, M:])

    sites = [site for site in tuned.anatomy.sites if site.role in ("q", "k", "v", "o")]
    hooks = [tuned.model.get_submodule(site.module).register_forward_pre_hook(keep(site.name)) for site in sites]
    with torch.no_grad():
        bases.logits(tuned.model, torch.tensor([LONG, LONG[::-1]]))
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize(
    ("family", "n_attentions"), [("bert_classes", 2), ("distilbert_classes", 2), ("t5", 6), ("bart", 6)]
)
def test_every_attention_is_over_the_prefix_and_its_own(family, n_attentions):
    """softmax(q [P_k; K]ᵀ) [P_v; V] in float64, a head at a time, for what enters each output projection."""
    tuned = prefixed(family)
    seen, sites = entering(tuned), {site.name: site for site in tuned.anatomy.sites}
    names = [name.removesuffix("o") for name in sites if name.endswith((".o", ".cross_o"))]
    assert len(names) == n_attentions
    width, scale = bases.WIDTH // bases.HEADS, 1.0 if family == "t5" else (bases.WIDTH // bases.HEADS) ** -0.5
    for name in names:
        projected = {}
        for role in ("q", "k", "v"):
            weight, bias = dense_weight(tuned.model, sites[name + role])
            projected[role] = seen[name + role] @ weight.T + (0 if bias is None else bias)
        n_queries, n_keys = projected["q"].shape[1], projected["k"].shape[1]
        of_decoder = sites[name + "q"].layer >= len(tuned.anatomy.stacks[0])
        hidden = torch.zeros(n_queries, M + n_keys)
        if of_decoder and not sites[name + "q"].is_cross:
            hidden[:, M:] = torch.full((n_queries, n_keys), -torch.inf).triu(1)
        added = torch.zeros(bases.HEADS, n_queries, M + n_keys)
        if family == "t5" and not sites[name + "q"].is_cross:  # the virtual tokens' places are before the others
            stack = tuned.model.decoder if of_decoder else tuned.model.encoder
            length = M + n_keys
            added = stack.block[0].layer[0].SelfAttention.compute_bias(length, length)[0, :, M:].detach()
        for row in range(2):
            for head in range(bases.HEADS):
                part = slice(head * width, (head + 1) * width)
                keys, values = (
                    torch.cat([tuned.deltas[name + role].written().detach(), projected[role][row]])[:, part]
                    for role in ("k", "v")
                )
                scores = scale * projected["q"][row][:, part] @ keys.T + added[head] + hidden
                expected = scores.softmax(-1) @ values
                torch.testing.assert_close(seen[name + "o"][row][:, part], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("family", ENCODERS)
def test_a_padded_row_of_an_encoder_is_as_alone(family):
    tuned = prefixed(family)
    together = tuned.model(PADDED, attention_mask=MASK).logits
    for row, ids in enumerate((LONG, SHORT)):
        alone = tuned.model(torch.tensor([ids])).logits[0]
        found = together[row] if together.dim() == 2 else together[row, : len(ids)]
        torch.testing.assert_close(found, alone, rtol=0, atol=1e-10)
    assert together.dim() == 2 or together.shape[:2] == PADDED.shape, "as many labels as tokens"


@pytest.mark.parametrize("placement", ["everywhere", "decoder"])
@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_a_padded_row_of_an_encoder_decoder_is_as_alone(family, placement):
    tuned = prefixed(family, placement)
    together = tuned.model(
        input_ids=PADDED, attention_mask=MASK, decoder_input_ids=ANSWERS, decoder_attention_mask=ANSWERS_MASK
    ).logits
    for row, ids in enumerate((LONG, SHORT)):
        n_answer = int(ANSWERS_MASK[row].sum())
        alone = tuned.model(input_ids=torch.tensor([ids]), decoder_input_ids=ANSWERS[row : row + 1, :n_answer]).logits
        torch.testing.assert_close(together[row, :n_answer], alone[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("placement", ["everywhere", "decoder"])
@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_a_padded_row_is_answered_as_alone_and_without_a_cache(family, placement, beams):
    tuned = prefixed(family, placement)
    how = {"max_new_tokens": 5, "num_beams": beams, "do_sample": False, "eos_token_id": None}
    together = tuned.model.generate(PADDED, attention_mask=MASK, **how)
    for row, ids in enumerate((LONG, SHORT)):
        assert torch.equal(tuned.model.generate(torch.tensor([ids]), **how)[0], together[row])
    assert torch.equal(tuned.model.generate(PADDED, attention_mask=MASK, use_cache=False, **how), together)
    with tuned.disabled():
        assert not torch.equal(tuned.model.generate(PADDED, attention_mask=MASK, **how), together)


@pytest.mark.parametrize("family", ["bert_classes", "roberta_classes", "bart"])
def test_embedded_input_and_eager_attention_say_the_same(family):
    tuned = prefixed(family)
    answers = {"decoder_input_ids": ANSWERS} if family == "bart" else {}
    expected = tuned.model(input_ids=PADDED, attention_mask=MASK, **answers).logits
    embedded = tuned.model.get_input_embeddings()(PADDED)
    if family != "roberta_classes":  # which gives padding no position where it sees ids
        found = tuned.model(inputs_embeds=embedded, attention_mask=MASK, **answers).logits
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    tuned.model.set_attn_implementation("eager")
    found = tuned.model(input_ids=PADDED, attention_mask=MASK, **answers).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_counts_are_the_closed_forms(family):
    """Keys and values for m tokens in three attentions a pair of layers; peft keeps one for each of the encoder's."""
    per_attention = 2 * M * bases.WIDTH
    for placement, n_attentions in (("everywhere", 3 * bases.LAYERS), ("decoder", bases.LAYERS)):
        method = parse_method({"name": "prefix_tuning", "virtual_tokens": M, "placement": placement})
        assert count(bases.build(family), method) == n_attentions * per_attention


def test_a_prefix_starts_from_the_keys_and_values_of_tokens_in_every_attention():
    tuned = attach(bases.build("bart"), parse_method({"name": "prefix_tuning", "virtual_tokens": 1}), seed=5)
    plain, found = bases.build("bart"), []
    for token in range(bases.VOCABULARY):
        hidden = plain.model.encoder(torch.tensor([[token]])).last_hidden_state[0]
        keys = plain.model.decoder.layers[1].encoder_attn.k_proj(hidden)
        found.append((keys - tuned.deltas["layers.3.cross_k"].values).abs().max())
    assert min(found) < 1e-10
    assert sorted(found)[1] > 1e-3


def test_what_does_not_fit_is_refused_with_what_to_do():
    tuned = prefixed("bert_classes")
    with pytest.raises(UserError, match="62 tokens and a prefix of 3 do not fit the 64 positions") as caught:
        tuned.model(torch.full((1, 62), 5))
    assert "max_length=61" in caught.value.hint
    assert tuned.model(torch.full((1, 61), 5)).logits.isfinite().all()
    with pytest.raises(UserError, match="cannot lengthen its attention_mask"):
        tuned.model(PADDED, attention_mask=torch.ones(2, 1, 7, 7))
    with pytest.raises(UserError, match="hidden=0"):
        parse_method({"name": "prefix_tuning", "init": "random", "hidden": 8, "placement": "decoder"})
