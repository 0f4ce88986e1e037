"""Choices and minimal pairs against one option at a time: each read alone, its tokens' log-probabilities added up."""

from dataclasses import replace

import pytest
import torch

from tests.bytes_tokenizer import bytes_tokenizer
from tests.evaluation.test_evaluate import TOKENIZER, as_base, base, log_probability
from tests.small_base import write_encoder_decoder
from tunewise.data.encode import encode_all
from tunewise.data.examples import Example, Ledger, Part
from tunewise.data.task import Task
from tunewise.data.template import Template
from tunewise.data.written import SeparateIds
from tunewise.engine.from_trunk import route_for
from tunewise.engine.native.build import library, why_not
from tunewise.engine.objectives import objective_for
from tunewise.errors import UserError
from tunewise.evaluation.evaluate import answer, evaluate_task, prepare
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.models.load import load_base

CHOICES = (" good", " kitchen water", " the boat was bad")


def chosen(n, number):
    options = CHOICES[: 2 + number % 2]  # rows have unlike numbers of choices
    right = number % len(options)
    prompt = f"{'soup ' * (number % 4)}{number}:"
    parts = (Part(prompt, False), Part(options[right], True))
    return Example(f"{n}{number}", parts, "ABC"[right], number, choices=options)


def pair(n, number):
    good, bad = f"the soup was good {number}", f"soup the {number} was good"
    if number == 3:
        bad = good
    return Example(f"{n}{number}", (Part(good, True),), "good", number, choices=(good, bad))


def task(kind, make, metrics):
    parts = {part: tuple(make(part, i) for i in range(n)) for part, n in (("train", 8), ("dev", 0), ("test", 7))}
    return Task(
        name="tested", kind=kind, template=Template("", ""), labels=(), metrics=metrics, **parts, ledger=Ledger(),
        separator="\n\n", max_new_tokens=6, source="",
    )  # fmt: skip


QUIZ = task("multiple_choice", chosen, ("accuracy", "accuracy_norm", "ece", "brier"))
PAIRS = task("minimal_pairs", pair, ("accuracy", "loss"))


def check_rows(found, log_probabilities):
    """Every row of QUIZ by these functions of (example, option), summed and divided by characters."""
    n_right, n_by_length, n_unlike = 0, 0, 0
    for example, row in zip(QUIZ.test, found.predictions, strict=True):
        values = [log_probabilities(example, option) for option in example.choices]
        names = "ABC"[: len(values)]
        assert list(row["scores"].values()) == pytest.approx(values, abs=2e-6)
        assert list(row["scores"]) == list(row["choices"]) == list(names)
        per_character = [value / len(option.strip()) for value, option in zip(values, example.choices, strict=True)]
        assert row["predicted"] == names[values.index(max(values))]
        assert row["by_length"] == names[per_character.index(max(per_character))]
        n_right += row["predicted"] == example.label
        n_by_length += row["by_length"] == example.label
        n_unlike += row["by_length"] != row["predicted"]
    assert n_unlike > 0  # else the test would tell nothing of lengths
    assert found.metrics["accuracy"] == pytest.approx(100 * n_right / 7)
    assert found.metrics["accuracy_norm"] == pytest.approx(100 * n_by_length / 7)
    assert 0 < found.metrics["ece"] < 1
    assert 0 < found.metrics["brier"] < 2


@pytest.mark.parametrize("prefix", [(), (11, 12)], ids=["plain", "prefix"])
@pytest.mark.parametrize("shots", [0, 3])
def test_the_most_probable_choice_of_each_row_is_taken(prefix, shots):
    model = base()
    found = evaluate_task(as_base(model), QUIZ, QUIZ.test, prefix_ids=prefix, shots=shots, batch_size=3)
    shown = prepare(as_base(model), QUIZ, QUIZ.test, shots=shots).demonstrations
    before = "".join(f"{each.prompt}{each.answer}\n\n" for each in shown)
    assert len(shown) == shots
    check_rows(found, lambda example, option: log_probability(model, before + example.prompt, option, prefix))


@pytest.mark.skipif(library() is None, reason=f"no kernels here: {why_not()}")
def test_packed_choices_are_scored_as_padded_ones():
    exact = evaluate_task(as_base(base()), QUIZ, QUIZ.test, shots=2)
    packed = evaluate_task(as_base(base().float()), QUIZ, QUIZ.test, shots=2)
    for one, other in zip(exact.predictions, packed.predictions, strict=True):
        assert one["scores"] == pytest.approx(other["scores"], abs=1e-4)


def test_an_encoder_decoder_chooses_what_it_would_rather_write(tmp_path):
    written = load_base(str(write_encoder_decoder(tmp_path / "base")), "float32")
    ids = SeparateIds(written.tokenizer)

    @torch.no_grad()
    def log_probability_of(example, option):
        labels = torch.tensor([ids.answer("", option)])
        logits = written.model(input_ids=torch.tensor([ids.prompt(example.prompt)]), labels=labels).logits
        return logits.log_softmax(-1).gather(2, labels[:, :, None]).sum().item()

    found = evaluate_task(written, QUIZ, QUIZ.test, batch_size=3)
    for example, row in zip(QUIZ.test, found.predictions, strict=True):
        values = [log_probability_of(example, option) for option in example.choices]
        assert list(row["scores"].values()) == pytest.approx(values, abs=1e-4)
    with pytest.raises(UserError, match="which has no loss of a plain text"):
        evaluate_task(written, PAIRS, PAIRS.test)


def test_choices_run_through_a_frozen_trunk_once():
    whole = as_base(base())
    tuned = attach(whole.model, parse_method("head"), seed=1)
    trunk = route_for(tuned, objective_for(whole, packing=True), encode_all(QUIZ.train, TOKENIZER, 96)[0]).trunk
    assert trunk is not None
    assert trunk.live == "head"
    tuned.model.eval()
    for asked in (QUIZ, PAIRS):
        questions = prepare(whole, asked, asked.test)
        plain, found = answer(whole, questions), answer(whole, questions, trunk=trunk)
        for one, other in zip(plain.predictions, found.predictions, strict=True):
            assert one["scores"] == pytest.approx(other["scores"], abs=1e-6)
        assert plain.metrics == pytest.approx(found.metrics)


@pytest.mark.parametrize("begin", [True, False], ids=["begin token", "none"])
def test_a_pair_is_right_where_the_good_sentence_is_more_probable(begin):
    """All tokens count, the first of them behind the begin token, or the end token where a tokenizer has no other."""
    model = base()
    asked = replace(as_base(model), tokenizer=bytes_tokenizer(begin))
    found = evaluate_task(asked, PAIRS, PAIRS.test, batch_size=4)
    first = [1] if begin else [2]
    n_right, total, n_tokens = 0, 0.0, 0
    for example, row in zip(PAIRS.test, found.predictions, strict=True):
        values = []
        for text in example.choices:
            ids = torch.tensor([first + asked.tokenizer(text, add_special_tokens=False)["input_ids"]])
            with torch.no_grad():
                logits = model(ids, use_cache=False).logits[:, :-1].log_softmax(-1)
            values.append(logits.gather(2, ids[:, 1:, None]).sum().item())
        total, n_tokens = (
            total + values[0],
            n_tokens + len(asked.tokenizer(example.answer, add_special_tokens=False)["input_ids"]),
        )
        assert list(row["scores"].values()) == pytest.approx(values, abs=2e-6)
        assert row["predicted"] == ("good" if example.line != 3 and values[0] > values[1] else "bad")
        n_right += row["correct"]
    assert found.predictions[3]["correct"] is False  # twice the same sentence: no preference earns nothing
    assert found.metrics["accuracy"] == pytest.approx(100 * n_right / 7)
    assert found.metrics["loss"] == pytest.approx(-total / n_tokens)
