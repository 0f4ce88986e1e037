"""Calibrated answers against the papers' equations, in float64, one prompt and one option at a time."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from tests.evaluation.test_evaluate import TOKENIZER, as_base, base, log_probability
from tests.small_base import write_encoder_decoder
from tunewise.data.config import DataConfig
from tunewise.data.load import load_task
from tunewise.data.splits import few_shot
from tunewise.errors import UserError
from tunewise.evaluation.evaluate import Asking, evaluate_task
from tunewise.evaluation.label_prior import calibrated, prior
from tunewise.models.load import load_base

LABELS = ("bad", "good soup")  # one token and several


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    file = tmp_path_factory.mktemp("reviews") / "rows.jsonl"
    rows = [{"text": f"the {'boat ' * (i % 3)}{i}", "label": LABELS[i % 4 == 0]} for i in range(40)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(file)


def behind(asked, prompt, shots, seed=0, balanced=True):
    """The prompt with its demonstrations before it."""
    shown = few_shot(asked.train, shots, seed, balanced) if shots else ()
    return "\n\n".join([*(each.prompt + each.answer for each in shown), prompt])


def probabilities(model, prompt):
    return np.array([math.exp(log_probability(model, prompt, f" {label}")) for label in LABELS])


@pytest.mark.parametrize("shots", [0, 4])
@pytest.mark.parametrize("pattern", ["none", "minimal", "question"])
def test_contextual_calibration_divides_by_the_answers_to_questions_without_content(path, shots, pattern):
    """Zhao et al. 2021, section 5: q = softmax(W p + b), W = diag(p_cf)^-1, b = 0."""
    model, asked = base(context=512), load_task(DataConfig(path=path, pattern=pattern))
    end = {"none": "\nLabel:", "minimal": "", "question": "\nQuestion: which label is it, bad or good soup?\nAnswer:"}
    # an empty text leaves no empty line behind
    contents = ["N/A" + end[pattern], "[MASK]" + end[pattern], end[pattern].lstrip()]
    free = np.mean([probabilities(model, behind(asked, content, shots)) for content in contents], axis=0)
    found = evaluate_task(as_base(model), asked, asked.test, shots=shots, asking=Asking(calibration="contextual"))
    plain = evaluate_task(as_base(model), asked, asked.test, shots=shots)
    weights = np.linalg.inv(np.diag(free))
    for example, row, before in zip(asked.test, found.predictions, plain.predictions, strict=True):
        scores = weights @ probabilities(model, behind(asked, example.prompt, shots))
        assert [math.exp(value) for value in row["scores"].values()] == pytest.approx(scores, rel=1e-5)
        assert row["predicted"] == LABELS[int(scores.argmax())]
        assert row["scores"] != before["scores"]
    assert (found.n_read, found.n_bare) == (plain.n_read, plain.n_bare), "a query costs the same"


@pytest.mark.parametrize("shots", [0, 4])
def test_pmi_subtracts_what_the_end_of_the_prompt_alone_tells(path, shots):
    """Holtzman et al. 2021, section 3: argmax log p(y | x) - log p(y | domain premise)."""
    model, asked = base(context=512), load_task(path)
    found = evaluate_task(as_base(model), asked, asked.test, shots=shots, asking=Asking(calibration="pmi"))
    premise = probabilities(model, behind(asked, "Label:", shots))
    for example, row in zip(asked.test, found.predictions, strict=True):
        expected = np.log(probabilities(model, behind(asked, example.prompt, shots))) - np.log(premise)
        assert list(row["scores"].values()) == pytest.approx(expected, abs=1e-5)
        assert row["predicted"] == LABELS[int(expected.argmax())]


def test_the_loss_is_the_language_models_own_and_demonstrations_may_lean_to_the_commoner_class(path):
    model = base(context=512)
    asked = replace(load_task(path), metrics=("accuracy", "loss"))
    losses = {}
    for calibration in ("none", "contextual", "pmi"):
        asking = Asking(balanced=False, calibration=calibration)
        found = evaluate_task(as_base(model), asked, asked.test, shots=4, seed=2, asking=asking)
        losses[calibration] = found.metrics["loss"]
    assert losses["none"] == losses["contextual"] == losses["pmi"]
    shown = few_shot(asked.train, 4, 2, balanced=False)
    assert sorted(each.label for each in shown) == ["bad"] * 3 + ["good soup"]
    total = sum(
        log_probability(model, behind(asked, example.prompt, 4, 2, balanced=False), example.answer)
        for example in asked.test
    )
    n_tokens = sum(len(TOKENIZER(example.answer, add_special_tokens=False)["input_ids"]) for example in asked.test)
    assert losses["none"] == pytest.approx(-total / n_tokens, rel=1e-6)


def test_a_label_that_is_never_said_does_not_underflow():
    found = prior([[-2000.0, -1.0], [-2001.0, -3.0]])
    assert found == pytest.approx(
        [-2000 + math.log((1 + math.exp(-1)) / 2), math.log((math.exp(-1) + math.exp(-3)) / 2)]
    )
    assert calibrated([[-1990.0, -1.0]], found)[0][0] == pytest.approx(-1990 - found[0])
    assert (prior([]), calibrated([[1.0, 2.0]], [])) == ([], [[1.0, 2.0]])


def test_an_encoder_decoder_is_calibrated_by_its_own_scores(path, tmp_path):
    writer, asked = load_base(str(write_encoder_decoder(tmp_path / "t5")), "float32"), load_task(path)
    plain = evaluate_task(writer, asked, asked.test)
    found = evaluate_task(writer, asked, asked.test, asking=Asking(calibration="contextual"))
    gaps = {
        tuple(round(row["scores"][label] - before["scores"][label], 3) for label in asked.labels)
        for row, before in zip(found.predictions, plain.predictions, strict=True)
    }
    assert len(gaps) == 1, "the same is taken off every answer"
    assert all(gap > 0 for gap in gaps.pop())


def test_answers_that_are_no_labels_are_not_calibrated(path):
    with pytest.raises(UserError, match="weighs labels against each other"):
        evaluate_task(as_base(base()), load_task("tiny:headline"), load_task("tiny:headline").test[:2],
                      asking=Asking(calibration="pmi"))  # fmt: skip
