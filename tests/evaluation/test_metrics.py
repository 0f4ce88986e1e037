"""Every metric against another implementation of it, or against its formula written out."""

import math
import string
from decimal import Decimal
from typing import get_args

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from scipy.stats import pearsonr, spearmanr

from tunewise.data.shapes import Kind
from tunewise.data.task import METRICS as OWN
from tunewise.directions import LOWER_IS_BETTER
from tunewise.errors import UserError
from tunewise.evaluation import metrics
from tunewise.evaluation.metrics import METRICS, Answers, spans
from tunewise.evaluation.overlap import last_number

labels = st.sampled_from(["ham", "spam", "eggs"])
label_pairs = st.lists(st.tuples(labels, labels), min_size=1, max_size=40)
words = st.sampled_from([*"the cat Cat sat on a mat mat. 2026 blåbær re-run -".split(), "\n", "\n"])
texts = st.lists(words, max_size=12).map(" ".join)
text_pairs = st.lists(st.tuples(texts, texts), min_size=1, max_size=6)


def score(names, predictions, references, **others):
    return metrics.score(names, Answers(predictions, references, **others))


def sides(pairs):
    return [one for one, _ in pairs], [other for _, other in pairs]


@given(label_pairs)
def test_accuracy_and_macro_f1_by_counting(pairs):
    got = score(["accuracy", "macro_f1"], *sides(pairs))
    assert got["accuracy"] == pytest.approx(100 * sum(p == r for p, r in pairs) / len(pairs))
    f1 = []
    for label in {label for pair in pairs for label in pair}:
        tp = sum(p == label == r for p, r in pairs)
        predicted, actual = sum(p == label for p, _ in pairs), sum(r == label for _, r in pairs)
        precision, recall = tp / predicted if predicted else 0, tp / actual if actual else 0
        f1.append(2 * precision * recall / (precision + recall) if tp else 0)
    assert got["macro_f1"] == pytest.approx(100 * sum(f1) / len(f1))


@given(label_pairs)
def test_mcc_is_the_correlation_of_indicator_vectors(pairs):
    """Gorodkin's R_K from its definition: covariances of the one-hot matrices, summed over classes."""
    classes = ["ham", "spam", "eggs"]

    def covariance(left, right):
        total = 0.0
        for label in classes:
            x, y = [value == label for value in left], [value == label for value in right]
            mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
            total += sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y))
        return total

    predictions, references = sides(pairs)
    spread = covariance(predictions, predictions) * covariance(references, references)
    expected = 100 * covariance(predictions, references) / math.sqrt(spread) if spread > 1e-12 else 0.0
    assert score(["mcc"], predictions, references)["mcc"] == pytest.approx(expected, abs=1e-8)


def test_mcc_of_two_classes_is_the_textbook_formula():
    tp, tn, fp, fn = 6, 3, 1, 2
    predictions = ["y"] * tp + ["n"] * tn + ["y"] * fp + ["n"] * fn
    references = ["y"] * tp + ["n"] * tn + ["n"] * fp + ["y"] * fn
    expected = (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert score(["mcc"], predictions, references)["mcc"] == pytest.approx(100 * expected)
    assert score(["mcc"], ["y"] * 4, ["y", "n", "y", "n"])["mcc"] == 0.0


@given(text_pairs)
@settings(deadline=None)
def test_rouge_is_rouge_scores(pairs):
    names = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    scorer = RougeScorer(names, use_stemmer=False)
    reference = [scorer.score(target=reference, prediction=prediction) for prediction, reference in pairs]
    got = score(names, *sides(pairs))
    for name in names:
        mean = sum(one[name].fmeasure for one in reference) / len(pairs)
        assert got[name] == pytest.approx(100 * mean, abs=1e-9), name


def test_bleu_and_chrf_are_sacrebleus():
    predictions = ["Det var en gang en katt på brygga .", "Penselen er ny"]
    references = ["Det var en gang ei katt på brygga .", "Penselen er ikke ny"]
    got = score(["bleu", "chrf"], predictions, references)
    assert got["bleu"] == sacrebleu.BLEU().corpus_score(predictions, [references]).score
    assert got["chrf"] == sacrebleu.CHRF().corpus_score(predictions, [references]).score
    assert 10 < got["bleu"] < 90
    assert 50 < got["chrf"] < 100


def test_exact_match_ignores_white_space_only():
    assert score(["exact_match"], [" a  b\n", "A", "c"], ["a b", "a", "c"])["exact_match"] == pytest.approx(200 / 3)


def test_a_perfect_answer_scores_a_hundred_everywhere():
    told = ["the cat sat on the mat 7", "a dog ran to the old harbour 3"]
    names = [name for name, metric in METRICS.items() if metric.reads == "predicted" and name != "span_f1"]
    assert len(names) == 14
    assert score(names, told, told) == pytest.approx(dict.fromkeys(names, 100.0))


def test_correlations_and_distance_of_values():
    told, right = ["1.5", "2.0", "4.0", "3.0"], ["1.0", "2.5", "5.0", "4.5"]
    got = score(["pearson", "spearman", "rmse"], told, right)
    x, y = ([float(text) for text in texts] for texts in (told, right))
    mx, my = sum(x) / 4, sum(y) / 4
    covariance = sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True))
    spread = (sum((a - mx) ** 2 for a in x) * sum((b - my) ** 2 for b in y)) ** 0.5
    assert got["pearson"] == pytest.approx(100 * covariance / spread)
    assert got["spearman"] == pytest.approx(100.0)  # both put the four in the same order
    assert got["rmse"] == pytest.approx((sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) / 4) ** 0.5)
    assert score(["pearson", "spearman"], ["1", "1"], ["1", "2"]) == {"pearson": 0.0, "spearman": 0.0}
    assert all(math.isnan(x) for x in score(["pearson", "spearman"], ["nan", "1", "2"], ["1", "2", "3"]).values())


@given(st.lists(st.tuples(st.integers(-3, 3), st.floats(-1e6, 1e6, width=32)), min_size=2, max_size=30))
def test_correlations_are_those_of_scipy(pairs):
    told, right = zip(*pairs, strict=True)
    got = score(["pearson", "spearman"], [str(x) for x in told], [str(y) for y in right])
    if len(set(told)) < 2 or len(set(right)) < 2:
        assert got == {"pearson": 0.0, "spearman": 0.0}
        return
    assert got["spearman"] == pytest.approx(100 * spearmanr(told, right).statistic, abs=1e-10)
    if np.std(right) > 1e-6 * np.abs(right).max():  # else both are rounding
        assert got["pearson"] == pytest.approx(100 * pearsonr(told, right).statistic, abs=1e-6)


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("O B-PER I-PER O", {("PER", 1, 3)}),
        ("B-PER B-PER", {("PER", 0, 1), ("PER", 1, 2)}),
        ("B-LOC I-PER", {("LOC", 0, 1), ("PER", 1, 2)}),
        ("I-LOC I-LOC O I-LOC", {("LOC", 0, 2), ("LOC", 3, 4)}),
        ("O O", set()),
    ],
)
def test_spans_are_those_of_the_conll_script(tags, found):
    assert spans(tags) == found


def test_span_f1_counts_whole_spans():
    got = score(["span_f1", "token_accuracy"], ["B-A I-A O B-B"], ["B-A O O B-B"])
    assert got == {"span_f1": pytest.approx(50.0), "token_accuracy": pytest.approx(75.0)}


def test_empty_answers_score_nothing():
    names = ["exact_match", "bleu", "chrf", "rouge1", "rouge2", "rougeL"]
    assert score(names, ["", ""], ["a b c d", "e f g h"]) == dict.fromkeys(names, 0.0)


def test_loss_and_perplexity_are_of_the_model():
    assert score(["loss", "perplexity"], [], [], loss=2.0) == {"loss": 2.0, "perplexity": pytest.approx(math.e**2)}
    assert set(LOWER_IS_BETTER) <= set(METRICS)


@given(label_pairs)
def test_f1_is_of_the_positive_label(pairs):
    got = score(["f1"], *sides(pairs), positive="ham")["f1"]
    tp = sum(p == r == "ham" for p, r in pairs)
    fp, fn = sum(p == "ham" != r for p, r in pairs), sum(r == "ham" != p for p, r in pairs)
    assert got == pytest.approx(200 * tp / (2 * tp + fp + fn) if tp else 0.0)


@pytest.mark.parametrize("name", ["ece", "accuracy_norm", "f1", "loss"])
def test_what_answers_do_not_have_is_told(name):
    with pytest.raises(UserError, match=f"{name} cannot be told of these answers"):
        score([name], ["a"], ["a"])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ece", "generation"),
        ("accuracy_norm", "classification"),
        ("pearson", "classification"),
        ("accuracy", "language_modelling"),
        ("brier", "regression"),
    ],
)
def test_what_a_kind_of_task_does_not_have_is_told_before_it_is_asked(name, kind):
    with pytest.raises(UserError, match=f"{name} cannot be told"):
        metrics.check([name], kind)


@pytest.mark.parametrize("kind", get_args(Kind))
def test_every_kind_has_its_own_metrics(kind):
    metrics.check(OWN[kind], kind)


words_of_answers = st.sampled_from([*"The the an A cat, cat U.S. us 1,000 theory - é".split(), ""])
answers_of_squad = st.lists(words_of_answers, max_size=6).map(" ".join)
rows_of_squad = st.tuples(answers_of_squad, st.lists(answers_of_squad, min_size=1, max_size=3))


def squad_words(text):
    """The official normalisation, one character and one word at a time."""
    kept = "".join(character for character in text.lower() if character not in string.punctuation)
    return [word for word in kept.split() if word not in ("a", "an", "the")]


@given(st.lists(rows_of_squad, min_size=1, max_size=5))
def test_token_f1_and_match_are_squads(rows):
    f1, match = [], []
    for predicted, accepted in rows:
        mine, scores = squad_words(predicted), []
        for theirs in map(squad_words, accepted):
            n_common, left = 0, list(theirs)
            for word in mine:
                if word in left:
                    left.remove(word)
                    n_common += 1
            if not mine or not theirs:
                scores.append(float(mine == theirs))
            elif n_common == 0:
                scores.append(0.0)
            else:
                precision, recall = n_common / len(mine), n_common / len(theirs)
                scores.append(2 * precision * recall / (precision + recall))
        f1.append(max(scores))
        match.append(any(mine == squad_words(one) for one in accepted))
    predicted, accepted = [one for one, _ in rows], [those for _, those in rows]
    got = score(["token_f1", "normalised_match"], predicted, [those[0] for those in accepted], accepted=accepted)
    assert got["token_f1"] == pytest.approx(100 * sum(f1) / len(rows))
    assert got["normalised_match"] == pytest.approx(100 * sum(match) / len(rows))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 48 + 24 = 72.\n#### 72", "72"),
        ("#### 1,234,567.50", "1234567.5"),
        ("The answer is -3.", "-3"),
        ("a loss of −$1,000", "-1000"),
        ("$-5", "-5"),
        ("10-4", "4"),
        ("he has 3 apples (2)", "2"),
        ("50%, or .5", "0.5"),
        ("7.0", "7"),
        ("1,23", "23"),
        ("none at all", None),
        ("", None),
    ],
)
def test_the_last_number_of_a_text(text, number):
    assert last_number(text) == (None if number is None else Decimal(number))


def test_numeric_match_counts_rows_whose_last_numbers_are_equal():
    told = ["It is 72 dollars.", "72 or 73", "1000.00", "no number", "-3"]
    right = ["#### 72", "#### 72", "#### 1,000", "none", "#### 3"]
    assert score(["numeric_match"], told, right)["numeric_match"] == pytest.approx(40.0)


def test_calibration_is_of_the_probabilities_over_labels():
    scores = [{"a": -1.0, "b": -3.0, "c": -2.0}, {"a": -9.0, "b": -9.5, "c": -10.0}, {"a": -50.0, "b": -1.0, "c": -4.0}]
    predicted, expected = ["a", "a", "b"], ["a", "b", "b"]
    confidences, brier = [], 0.0
    for row, label in zip(scores, expected, strict=True):
        total = sum(math.exp(value) for value in row.values())
        confidences.append(max(math.exp(value) / total for value in row.values()))
        brier += sum((math.exp(value) / total - (name == label)) ** 2 for name, value in row.items()) / 3
    assert [int(confidence * 15) for confidence in confidences] == [9, 7, 14]  # no two in one bin
    gaps = [abs(right - confidence) for right, confidence in zip((1, 0, 1), confidences, strict=True)]
    got = score(["ece", "brier"], predicted, expected, scores=scores)
    assert got == {"ece": pytest.approx(sum(gaps) / 3), "brier": pytest.approx(brier)}


def test_accuracy_by_length_is_of_another_prediction():
    got = score(["accuracy", "accuracy_norm"], ["A", "B"], ["A", "A"], by_length=["B", "B"])
    assert got == {"accuracy": 50.0, "accuracy_norm": 0.0}


def plain_spans(tags):
    """seqeval's default reading (it is not installed): each chunk begins at a B, at an I behind something else."""
    found, open_at = [], None
    for place in range(len(tags) + 1):
        mark, kind = (tags[place] + "-").split("-")[:2] if place < len(tags) else ("O", "")
        before, kind_before = (tags[place - 1] + "-").split("-")[:2] if place else ("O", "")
        ends = before != "O" and (mark in ("B", "O") or kind != kind_before)
        begins = mark != "O" and (mark == "B" or before == "O" or kind != kind_before)
        if ends:
            found.append((kind_before, open_at, place))
        if begins:
            open_at = place
    return set(found)


tags = st.lists(st.sampled_from(["O", "B-A", "I-A", "B-B", "I-B"]), min_size=1, max_size=12)


@given(st.lists(st.tuples(tags, tags), min_size=1, max_size=4))
def test_span_f1_is_that_of_a_plain_reading(rows):
    rows = [(one[: len(other)], other[: len(one)]) for one, other in rows]
    n_common = sum(len(plain_spans(one) & plain_spans(other)) for one, other in rows)
    precision, recall = (n_common / max(1, sum(len(plain_spans(row[side])) for row in rows)) for side in (0, 1))
    expected = 200 * precision * recall / (precision + recall) if n_common else 0.0
    got = score(["span_f1"], [" ".join(one) for one, _ in rows], [" ".join(other) for _, other in rows])
    assert got["span_f1"] == pytest.approx(expected)


def test_an_unknown_metric_names_the_nearest():
    with pytest.raises(UserError, match="no metric named 'acuracy'") as error:
        score(["acuracy"], ["a"], ["a"])
    assert "did you mean 'accuracy'?" in error.value.hint


def test_unlike_numbers_are_our_own_mistake():
    with pytest.raises(ValueError, match="1 predictions for 2 references"):
        score(["accuracy"], ["a"], ["a", "b"])
