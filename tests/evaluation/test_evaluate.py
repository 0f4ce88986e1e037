"""Evaluation against the plain way: one prompt at a time, one option at a time, transformers' generate."""

import copy
from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.bytes_tokenizer import VOCABULARY, bytes_tokenizer
from tests.tuned import moved
from tunewise.data.encode import encode_all, encode_answer, encode_prompt
from tunewise.data.examples import Example, Ledger, Part
from tunewise.data.task import Task
from tunewise.data.template import Template
from tunewise.engine.from_trunk import route_for
from tunewise.engine.native.build import library, why_not
from tunewise.engine.objectives import objective_for
from tunewise.engine.packed_reading import why_not_read
from tunewise.errors import UserError
from tunewise.evaluation.evaluate import answer as answered
from tunewise.evaluation.evaluate import evaluate_task, prepare
from tunewise.evaluation.questions import ask, stop_text
from tunewise.evaluation.retention import retention_loss
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.models.anatomy import read_anatomy
from tunewise.models.load import Base

TOKENIZER = bytes_tokenizer()


def base(context=256):
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=context, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).double()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def as_base(model):
    return Base(model, TOKENIZER, read_anatomy(model), "random", "", model.dtype)


def examples(name, n, labels):
    return tuple(
        Example(
            f"{name}{i}",
            (Part(f"the {'soup ' * (i % 4)}{i}:", False), Part(f" {labels[i % 2]}", True)),
            labels[i % 2],
            i,
        )
        for i in range(n)
    )


def task(kind="classification", labels=("good", "bad"), metrics=("accuracy", "macro_f1"), separator="\n\n"):
    parts = {name: examples(name, n, labels) for name, n in (("train", 12), ("dev", 4), ("test", 7))}
    answered = labels if kind == "classification" else ()
    return Task(
        name="tested", kind=kind, template=Template("", " {label}"), labels=answered, metrics=metrics, **parts,
        ledger=Ledger(), separator=separator, max_new_tokens=6, source="",
    )  # fmt: skip


@torch.no_grad()
def log_probability(model, prompt, option, prefix=()):
    ids, total = [*prefix, *encode_prompt(prompt, TOKENIZER)], 0.0
    for token in encode_answer(prompt, option, TOKENIZER):
        total += model(torch.tensor([ids]), use_cache=False).logits[0, -1].log_softmax(-1)[token].item()
        ids.append(token)
    return total


@pytest.mark.parametrize("labels", [("good", "bad"), ("positive", "kitchen water")], ids=["one token", "several"])
@pytest.mark.parametrize("prefix", [(), (11, 12)], ids=["plain", "prefix"])
def test_the_most_probable_label_is_chosen(labels, prefix):
    model, asked = base(), task(labels=labels)
    found = evaluate_task(as_base(model), asked, asked.test, prefix_ids=prefix, batch_size=3)
    n_right = 0
    for example, row in zip(asked.test, found.predictions, strict=True):
        expected = {label: log_probability(model, example.prompt, f" {label}", prefix) for label in labels}
        assert row["scores"] == pytest.approx(expected, abs=1e-6)
        assert row["predicted"] == max(expected, key=expected.get)
        assert (row["id"], row["prompt"], row["expected"]) == (example.id, example.prompt, example.label)
        assert row["correct"] == (row["predicted"] == example.label)
        n_right += row["correct"]
    assert list(found.metrics) == ["accuracy", "macro_f1"]
    assert found.metrics["accuracy"] == pytest.approx(100 * n_right / 7)
    assert found.main == found.metrics["accuracy"]


def test_the_loss_is_of_the_expected_answers_tokens():
    model, asked = base(), task(labels=("positive", "kitchen water"), metrics=("loss", "accuracy"))
    found = evaluate_task(as_base(model), asked, asked.test)
    total = sum(log_probability(model, example.prompt, example.answer) for example in asked.test)
    n_tokens = sum(len(encode_answer(example.prompt, example.answer, TOKENIZER)) for example in asked.test)
    assert found.metrics["loss"] == pytest.approx(-total / n_tokens, abs=1e-8)
    assert found.main == -found.metrics["loss"]
    generating = replace(asked, kind="generation", labels=())
    assert evaluate_task(as_base(model), generating, asked.test).metrics["loss"] == pytest.approx(-total / n_tokens)


def test_demonstrations_stand_before_every_question():
    asked = task()
    questions = ask(asked, asked.test, TOKENIZER, shots=4, seed=1)
    assert sorted(example.label for example in questions.demonstrations) == ["bad", "bad", "good", "good"]
    shown = "\n\n".join(example.prompt + example.answer for example in questions.demonstrations)
    for example, prompt, answer in zip(asked.test, questions.prompts, questions.answers, strict=True):
        assert prompt == encode_prompt(f"{shown}\n\n{example.prompt}", TOKENIZER)
        assert answer == encode_answer(example.prompt, example.answer, TOKENIZER)
    again, other = (
        ask(asked, asked.test, TOKENIZER, shots=4, seed=1),
        ask(asked, asked.test, TOKENIZER, shots=4, seed=2),
    )
    assert again == questions
    assert other.demonstrations != questions.demonstrations
    model = base()
    found = evaluate_task(as_base(model), asked, asked.test, shots=4, seed=1)
    expected = log_probability(model, f"{shown}\n\n{asked.test[3].prompt}", " good")
    assert found.predictions[3]["scores"]["good"] == pytest.approx(expected, abs=1e-6)


def test_demonstrations_that_do_not_fit_are_left_out_from_the_front():
    asked = task()
    one_answer = max(len(ids) for row in ask(asked, asked.test, TOKENIZER).options for ids in row)
    whole = ask(asked, asked.test, TOKENIZER, shots=4)
    room = max(map(len, whole.prompts)) + one_answer - 1
    cut = ask(asked, asked.test, TOKENIZER, room=room, shots=4)
    assert set(cut.n_dropped) == {0, 1}
    for example, prompt, n_dropped in zip(asked.test, cut.prompts, cut.n_dropped, strict=True):
        shown = [each.prompt + each.answer for each in whole.demonstrations[n_dropped:]]
        assert prompt == encode_prompt("\n\n".join([*shown, example.prompt]), TOKENIZER)
    found = evaluate_task(as_base(base(context=room)), asked, asked.test, shots=4)
    assert found.n_dropped == sum(cut.n_dropped)
    assert found.n_truncated == 0


def test_a_question_longer_than_the_context_loses_its_beginning():
    asked = task()
    questions = ask(asked, asked.test, TOKENIZER, room=8, shots=2)
    budget = 8 - max(len(ids) for row in questions.options for ids in row)
    assert 0 < sum(questions.truncated) < len(asked.test)
    for example, prompt, n_dropped, truncated in zip(
        asked.test, questions.prompts, questions.n_dropped, questions.truncated, strict=True
    ):
        whole = encode_prompt(example.prompt, TOKENIZER)
        assert n_dropped == 2
        assert truncated == (len(whole) > budget)
        assert prompt == (whole if not truncated else [1, *whole[1 - budget :]])
    assert evaluate_task(as_base(base(context=8)), asked, asked.test).n_truncated > 0


def test_generation_is_greedy_and_returns_rows_in_order():
    model, asked = base(), task(kind="generation", metrics=("exact_match", "chrf"))
    found = evaluate_task(as_base(model), asked, asked.test, batch_size=3)
    for example, row in zip(asked.test, found.predictions, strict=True):
        ids = torch.tensor([encode_prompt(example.prompt, TOKENIZER)])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=6)
        text = TOKENIZER.decode(out[0, ids.shape[1] :], skip_special_tokens=True).split("\n\n")[0].strip()
        assert (row["id"], row["predicted"], row["expected"]) == (example.id, text, example.answer.strip())
    assert list(found.metrics) == ["exact_match", "chrf"]


@pytest.mark.skipif(library() is None, reason=f"no kernels here: {why_not()}")
@pytest.mark.parametrize("kind", ["classification", "generation"])
@pytest.mark.parametrize("shots", [0, 4])
def test_packed_and_padded_evaluations_agree(kind, shots):
    exact, asked = base(), task(kind, labels=("positive", "kitchen water"), metrics=("exact_match", "loss"))
    asked = asked if kind == "generation" else replace(asked, metrics=("accuracy", "loss"))
    model = copy.deepcopy(exact).float()
    assert why_not_read(model) == ""
    assert "no kernel" in why_not_read(exact)
    packed, padded = (evaluate_task(as_base(each), asked, asked.test, shots=shots) for each in (model, exact))
    assert packed.metrics == pytest.approx(padded.metrics, abs=1e-4)
    assert [row["predicted"] for row in packed.predictions] == [row["predicted"] for row in padded.predictions]


def test_the_separator_ends_an_answer_unless_answers_hold_it():
    assert stop_text(task("generation")) == "\n\n"
    assert stop_text(task("generation", separator="oo")) == ""


def test_documents_are_scored_in_nats_per_token():
    texts = ["the soup was good", "the boat", "the kitchen water was cold and the boat was bad"]
    model = base()
    asked = replace(
        task("language_modelling", metrics=("loss",)),
        test=tuple(Example(str(i), (Part(text, True),), None, i) for i, text in enumerate(texts)),
    )
    found = evaluate_task(as_base(model), asked, asked.test)
    total, per_document = retention_loss(as_base(model), texts)
    expected, n_tokens = [], []
    for text in texts:
        ids = encode_prompt(text, TOKENIZER)
        n_tokens.append(len(ids) - 1)
        expected.append(model(torch.tensor([ids]), labels=torch.tensor([ids]), use_cache=False).loss.item())
    assert per_document == pytest.approx(expected, abs=1e-6)
    assert [row["loss"] for row in found.predictions] == per_document
    mean = sum(loss * n for loss, n in zip(expected, n_tokens, strict=True)) / sum(n_tokens)
    assert found.metrics["loss"] == total == pytest.approx(mean, abs=1e-6)
    shortened, _ = retention_loss(as_base(model), texts, longest=3)
    assert shortened == retention_loss(as_base(base(context=3)), texts)[0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("method", ["head", {"name": "top_layers", "layers": 1}], ids=["head", "top_layers"])
@pytest.mark.parametrize("labels", [("good", "bad"), ("positive", "kitchen water")], ids=["one token", "several"])
def test_options_and_documents_are_the_same_from_the_trunk_and_run_through_it_once(labels, method, dtype):
    """With and without, padded in float64 and packed in float32; the frozen layer is not called a second time."""
    model, asked = base().to(dtype), task(labels=labels, metrics=("accuracy", "loss"))
    whole = as_base(model)
    tuned = moved(attach(model, parse_method(method), seed=1))
    rows = encode_all(asked.train, TOKENIZER, 96)[0]
    trunk = route_for(tuned, objective_for(whole, packing=True), rows).trunk
    assert trunk is not None
    tuned.model.eval()
    questions = prepare(whole, asked, asked.test)
    texts = ["the soup was good", "t", "", "the kitchen water was cold and the boat was bad"]
    close = {"rel": 0, "abs": 1e-9 if dtype == torch.float64 else 1e-4}
    plain, (_, losses) = answered(whole, questions), retention_loss(whole, texts)
    below = []
    model.model.layers[0].mlp.register_forward_hook(lambda *_: below.append(1))
    objective_for(whole, packing=True)  # whether rows can be packed is tried here, and not again
    for is_again in (False, True):
        below.clear()
        found, (_, told) = answered(whole, questions, trunk=trunk), retention_loss(whole, texts, trunk=trunk)
        for row, other in zip(found.predictions, plain.predictions, strict=True):
            assert row["scores"] == pytest.approx(other["scores"], **close)
        assert found.metrics == pytest.approx(plain.metrics, **close)
        assert told == pytest.approx(losses, **close)
        if trunk.live == "head":
            assert (not below) == is_again
    below.clear()
    retention_loss(whole, texts, trunk=trunk)
    assert not below
    with tuned.disabled():
        expected = retention_loss(as_base(base().to(dtype)), texts)[1]
        assert retention_loss(whole, texts, trunk=trunk)[1] == pytest.approx(expected, **close)
    assert told != pytest.approx(expected, **close)


def test_nothing_to_ask_or_to_show_is_refused():
    asked = replace(task(), train=(), dev=())
    with pytest.raises(UserError, match="has no examples"):
        evaluate_task(as_base(base()), asked, asked.dev)
    with pytest.raises(UserError, match="no training examples to show"):
        evaluate_task(as_base(base()), asked, asked.test, shots=2)
