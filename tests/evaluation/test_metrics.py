"""Every metric against another implementation of it, or against its formula written out."""

import math

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from tunewise.errors import UserError
from tunewise.evaluation.metrics import METRICS, score, spans

labels = st.sampled_from(["ham", "spam", "eggs"])
label_pairs = st.lists(st.tuples(labels, labels), min_size=1, max_size=40)
words = st.sampled_from(["the", "cat", "Cat", "sat", "on", "a", "mat", "mat.", "2026", "blåbær", "re-run", "-", "\n"])
texts = st.lists(words, max_size=12).map(" ".join)
text_pairs = st.lists(st.tuples(texts, texts), min_size=1, max_size=6)


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


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=30))
@settings(max_examples=50, deadline=None)
def test_f1_is_that_of_one_label(pairs):
    predictions, references = zip(*pairs)
    n_both = sum(pair == ("b", "b") for pair in pairs)
    precision, recall = (n_both / side.count("b") if "b" in side else 0.0 for side in (predictions, references))
    expected = 2 * precision * recall / (precision + recall) if n_both else 0.0
    assert score(["f1"], predictions, references, "b")["f1"] == pytest.approx(100 * expected)


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
    names = ["rouge1", "rouge2", "rougeL"]
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
    told = ["the cat sat on the mat", "a dog ran to the old harbour"]
    names = [name for name, metric in METRICS.items() if metric.fn]
    numbers = [name for name in names if name in ("pearson", "spearman", "rmse")]
    names = [name for name in names if name not in (*numbers, "span_f1")]
    assert (len(names), len(numbers)) == (10, 3)
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


def test_loss_is_known_but_not_computed_from_texts():
    assert METRICS["loss"].higher_is_better is False
    assert score(["loss", "accuracy"], ["a"], ["a"]) == {"accuracy": 100.0}


def test_an_unknown_metric_names_the_nearest():
    with pytest.raises(UserError, match="no metric named 'acuracy'") as error:
        score(["acuracy"], ["a"], ["a"])
    assert "did you mean 'accuracy'?" in error.value.hint


@pytest.mark.parametrize(("predictions", "references"), [([], []), (["a"], ["a", "b"])])
def test_unlike_numbers_are_our_own_mistake(predictions, references):
    with pytest.raises(ValueError, match="predictions for"):
        score(["accuracy"], predictions, references)
