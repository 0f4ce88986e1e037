"""Decoding of many prompts at a time, packed (float32) and padded (float64), against each prompt alone."""

import copy
from collections import Counter

import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from tests.bases import DECODERS, build, quantised
from tests.rows import random_rows
from tests.tuned import moved
from tests.words_tokenizer import words_tokenizer
from tunewise.engine.decoding import Answer, Decoding, PaddedBatch, Sampling, decode, end_ids, greedy, most_probable
from tunewise.engine.native.build import library, why_not
from tunewise.engine.packed_reading import why_not_read
from tunewise.engine.prefill import prefill
from tunewise.errors import UserError
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.models.ends import unpack_ends

needs_kernels = pytest.mark.skipif(library() is None, reason=f"no kernels here: {why_not()}")
PROMPTS = [list(row.ids[: row.prompt_length]) for row in random_rows(7, seed=2)]


@pytest.fixture(scope="module")
def tokenizer():
    return words_tokenizer()


def generated(model, tokenizer, prompt, n_new, prefix_ids=()):
    ids = torch.tensor([[*prefix_ids, *prompt]])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=n_new)
    return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


def varied(model, tokenizer):
    """Prompts and their answers as words, the first with a third word that it has not said before."""
    words = [text.split() for text in greedy(model, tokenizer, PROMPTS, 6)]
    first = next(i for i, answer in enumerate(words) if len(answer) == 6 and answer[2] not in answer[:2])
    chosen = [first, *(i for i in range(len(words)) if i != first)]
    return [PROMPTS[i] for i in chosen], [words[i] for i in chosen]


@pytest.mark.parametrize("prefix_ids", [(), (11, 12)], ids=["plain", "prefix"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "mistral", "gemma3_text"])
def test_batches_give_what_generate_gives_one_by_one(tokenizer, family, prefix_ids):
    model = build(family)
    answers = greedy(model, tokenizer, PROMPTS, 9, prefix_ids=prefix_ids, batch_size=3)
    assert answers == [generated(model, tokenizer, prompt, 9, prefix_ids) for prompt in PROMPTS]
    assert any(answers)


@pytest.mark.parametrize("family", ["llama", "llama_tied"])
def test_an_embedding_and_a_head_in_int8_write_what_their_dense_weights_do(tokenizer, family):
    model, plain = (quantised("nf4-ends8", family) for _ in range(2))
    unpack_ends(plain)
    answers = greedy(model, tokenizer, PROMPTS, 9, batch_size=3)
    assert answers == greedy(plain, tokenizer, PROMPTS, 9, batch_size=3)
    assert any(answers)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "gpt_neox"])
def test_a_shared_beginning_changes_no_answer(tokenizer, family):
    model = build(family)
    prompts = [[1, *range(5, 30), *prompt[1:]] for prompt in PROMPTS]
    answers = greedy(model, tokenizer, prompts, 9, prefix_ids=(11, 12), batch_size=3)
    assert answers == [generated(model, tokenizer, prompt, 9, (11, 12)) for prompt in prompts]


@needs_kernels
@pytest.mark.parametrize("batch_size", [1, 3, 16])
@pytest.mark.parametrize("family", DECODERS)
def test_packed_lanes_give_what_generate_gives_one_by_one(tokenizer, family, batch_size):
    model = build(family, torch.float32)
    assert why_not_read(model, (11, 12)) == ""
    for prompts in (PROMPTS, [[1, *range(5, 30), *prompt[1:]] for prompt in PROMPTS]):
        answers = greedy(model, tokenizer, prompts, 9, prefix_ids=(11, 12), batch_size=batch_size)
        exact = copy.deepcopy(model).double()
        assert answers == [generated(exact, tokenizer, prompt, 9, (11, 12)) for prompt in prompts]


@needs_kernels
@pytest.mark.parametrize("method", ["prompt_tuning", "prefix_tuning", "llama_adapter", "lora"])
def test_packed_lanes_with_a_method_attached(tokenizer, method):
    tuned = moved(attach(build("llama", torch.float32), parse_method({"name": method}), seed=1))
    tuned.model.eval()
    assert why_not_read(tuned.model, tuned.prefix_ids) == ""
    answers = greedy(tuned.model, tokenizer, PROMPTS, 6, prefix_ids=tuned.prefix_ids, batch_size=3)
    assert answers == [generated(tuned.model, tokenizer, prompt, 6, tuned.prefix_ids) for prompt in PROMPTS]


@needs_kernels
def test_ended_answers_leave_their_lanes_to_waiting_prompts(tokenizer):
    model, shapes = build("llama", torch.float32), []
    words = [text.split() for text in greedy(model, tokenizer, PROMPTS, 6)]
    common, _ = Counter(word for answer in words for word in set(answer)).most_common(1)[0]
    model.generation_config.eos_token_id = [2, tokenizer.convert_tokens_to_ids(common)]
    model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    why_not_read(model)
    shapes.clear()
    ended = greedy(model, tokenizer, PROMPTS, 6, batch_size=2)
    expected = [answer[: answer.index(common)] if common in answer else answer for answer in words]
    assert ended == [" ".join(answer) for answer in expected]
    steps = [min(6, len(answer) + 1) for answer in expected]
    order = sorted(range(len(PROMPTS)), key=lambda i: len(PROMPTS[i]))[::-1]
    ends = [0, 0]
    for i in order:
        ends[ends.index(min(ends))] += steps[i]
    assert len(shapes) == max(ends)
    assert max(ends) < sum(max(steps[i] for i in order[first : first + 2]) for first in range(0, len(order), 2))


def test_sampling_follows_the_probabilities_inside_the_nucleus():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()[None].expand(4000, 4)
    for sampling, expected in (
        (Sampling(), [0.5, 0.3, 0.15, 0.05]),
        (Sampling(top_p=0.7, seed=1), [0.625, 0.375, 0, 0]),
        (Sampling(top_p=0.4, seed=2), [1, 0, 0, 0]),
        (Sampling(temperature=0.5), [value / 0.365 for value in (0.25, 0.09, 0.0225, 0.0025)]),
    ):
        drawn = sampling.chooser()(logits, range(4000)).bincount(minlength=4) / 4000
        assert drawn.tolist() == pytest.approx(expected, abs=0.03)
        assert [share == 0 for share in drawn.tolist()] == [share == 0 for share in expected]


@pytest.mark.parametrize("cut", [{}, {"top_k": 5}, {"top_p": 0.7}, {"top_k": 5, "top_p": 0.7}])
def test_what_may_be_drawn_is_cut_as_transformers_cuts_it(cut):
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    drawn = Sampling(temperature=1.5, seed=4, **cut).chooser()(logits.expand(20000, -1), range(20000))
    expected = TemperatureLogitsWarper(1.5)(None, logits)
    if "top_k" in cut:
        expected = TopKLogitsWarper(cut["top_k"])(None, expected)
    if "top_p" in cut:
        expected = TopPLogitsWarper(cut["top_p"])(None, expected)
    shares = drawn.bincount(minlength=12) / 20000
    torch.testing.assert_close(shares.double(), expected.softmax(-1)[0], atol=0.012, rtol=0)
    assert torch.equal(shares > 0, expected[0].isfinite())


def test_the_coldest_draws_the_most_probable_and_of_logits_that_are_no_numbers_something_is_drawn():
    logits = torch.tensor([[-30.0, 4.0, 300.0], [float("nan")] * 3])
    for temperature in (1e-320, 1e-40, 1e-3):
        drawn = Sampling(temperature=temperature).chooser()(logits, [0, 1])
        assert drawn[0] == 2
        assert 0 <= drawn[1] < 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sample_does_not_depend_on_its_batch(tokenizer, dtype):
    model = build("llama", dtype)
    how, other, cold = (
        Decoding(8, sampling=Sampling(temperature, seed=seed)) for temperature, seed in ((2.0, 5), (2.0, 6), (1e-4, 0))
    )
    whole = decode(model, tokenizer, PROMPTS, how, batch_size=7)
    assert whole == decode(model, tokenizer, PROMPTS, how, batch_size=2)
    assert whole == decode(model, tokenizer, PROMPTS, how, batch_size=2, packing=False)
    assert whole != decode(model, tokenizer, PROMPTS, other, batch_size=7)
    assert decode(model, tokenizer, PROMPTS, cold) == greedy(model, tokenizer, PROMPTS, 8)


@torch.no_grad()
def test_an_answer_that_ends_at_the_last_position_lets_a_padded_one_beside_it_go_on(tokenizer):
    model = build("gpt2")
    prompts, n_new = [(PROMPTS[0] * 62)[:62], PROMPTS[1][:3]], (2, 30)
    answers = [Answer(tokenizer, end_ids(model, tokenizer), Decoding(n)) for n in n_new]
    (read,) = prefill(model, prompts, pad_id=tokenizer.pad_token_id, batch_size=2)
    batch = PaddedBatch(model, read)
    while batch.step(most_probable, lambda prompt, token: answers[prompt].take(token)):
        pass
    assert [answer.text for answer in answers] == [
        generated(model, tokenizer, prompt, n) for prompt, n in zip(prompts, n_new, strict=True)
    ]
    assert len(answers[1].tokens) > 20


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"top_k": 0}])
def test_sampling_refuses_what_is_no_distribution(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        Sampling(**wrong)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_answer_ends_at_the_end_token(tokenizer, dtype):
    model = build("llama", dtype)
    prompts, words = varied(model, tokenizer)
    model.generation_config.eos_token_id = [2, tokenizer.convert_tokens_to_ids(words[0][2])]
    assert greedy(model, tokenizer, prompts, 6)[0] == " ".join(words[0][:2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_answer_ends_before_the_stop_text(tokenizer, dtype):
    model = build("llama", dtype)
    prompts, words = varied(model, tokenizer)
    stop = " " + words[0][2]
    cut = greedy(model, tokenizer, prompts, 6, stop=stop)
    assert cut == [" ".join(answer).split(stop)[0] for answer in words]
    assert cut[0] == " ".join(words[0][:2])
    stops = (" " + words[0][4], " " + words[0][2], "nowhere")
    assert decode(model, tokenizer, prompts, Decoding(6, stops))[0] == cut[0]
