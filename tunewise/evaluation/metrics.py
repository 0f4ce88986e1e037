"""Metrics of texts and labels, 0 to 100 (mcc and correlations: -100 to 100; rmse: in the units of the values); loss, in
nats a token, is measured elsewhere.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sacrebleu
from scipy import stats

from tunewise.errors import unknown

Texts = Sequence[str]


@dataclass(frozen=True)
class Metric:
    """fn(predictions, references) -> score; None for loss, which needs the model and not its texts, and for f1, which
    needs to know which label it counts."""

    fn: Callable[[Texts, Texts], float] | None
    higher_is_better: bool


def score(names: Sequence[str], predictions: Texts, references: Texts, positive: str = "") -> dict[str, float]:
    """The named metrics of as many predictions as references, loss left out; UserError for an unknown name.

    `positive` is the label whose f1 is taken.

    Raises ValueError where there are none, or not as many of the one as of the other.
    """
    if not predictions or len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
    scores = {}
    for name in names:
        if name not in METRICS:
            raise unknown("metric", name, METRICS)
        if name == "f1":
            scores[name] = f1(predictions, references, positive)
        elif (fn := METRICS[name].fn) is not None:
            scores[name] = fn(predictions, references)
    return scores


def accuracy(predictions: Texts, references: Texts) -> float:
    """Share of equal pairs."""
    return 100 * sum(map(str.__eq__, predictions, references)) / len(references)


def f1(predictions: Texts, references: Texts, positive: str) -> float:
    """F1 of one label, 2 tp / (2 tp + fp + fn); 0 where it neither occurs nor is predicted."""
    n_right = sum(one == other == positive for one, other in zip(predictions, references))
    return 100 * _f1(n_right, sum(map(positive.__eq__, predictions)), sum(map(positive.__eq__, references)))


def macro_f1(predictions: Texts, references: Texts) -> float:
    """Mean over all labels that occur, as prediction or reference, of F1 = 2 tp / (2 tp + fp + fn)."""
    right = Counter(reference for one, reference in zip(predictions, references) if one == reference)
    predicted, actual = Counter(predictions), Counter(references)
    labels = predicted.keys() | actual.keys()
    return 100 * sum(2 * right[label] / (predicted[label] + actual[label]) for label in labels) / len(labels)


def mcc(predictions: Texts, references: Texts) -> float:
    """Matthews' correlation for any number of classes; 0 where one side is constant.  Gorodkin 2004, eq. 8."""
    n = len(references)
    right = sum(map(str.__eq__, predictions, references))
    predicted, actual = Counter(predictions), Counter(references)
    covariance = right * n - sum(predicted[label] * actual[label] for label in actual)
    spread_predicted = n * n - sum(count * count for count in predicted.values())
    spread_actual = n * n - sum(count * count for count in actual.values())
    if spread_predicted == 0 or spread_actual == 0:
        return 0.0
    return 100 * covariance / (spread_predicted * spread_actual) ** 0.5


def exact_match(predictions: Texts, references: Texts) -> float:
    """Share of equal texts, runs of white space counting as one space and none at the ends."""
    return accuracy([" ".join(text.split()) for text in predictions], [" ".join(text.split()) for text in references])


def bleu(predictions: Texts, references: Texts) -> float:
    """Corpus BLEU by sacrebleu with its defaults (13a tokens, exponential smoothing).  Post 2018, arXiv:1804.08771."""
    return float(sacrebleu.corpus_bleu(list(predictions), [list(references)]).score)


def chrf(predictions: Texts, references: Texts) -> float:
    """Corpus chrF2 by sacrebleu with its defaults (character 6-grams, no words).  Popović 2015."""
    return float(sacrebleu.corpus_chrf(list(predictions), [list(references)]).score)


def rouge1(predictions: Texts, references: Texts) -> float:
    """Mean F1 of single words.  Lin 2004; words as in the rouge-score package, not stemmed."""
    return _mean(lambda one, other: _overlap_f1(_ngrams(one, 1), _ngrams(other, 1)), predictions, references)


def rouge2(predictions: Texts, references: Texts) -> float:
    """Mean F1 of pairs of adjacent words, as rouge1."""
    return _mean(lambda one, other: _overlap_f1(_ngrams(one, 2), _ngrams(other, 2)), predictions, references)


def rouge_l(predictions: Texts, references: Texts) -> float:
    """Mean F1 of the longest common subsequence of words, as rouge1."""
    return _mean(lambda one, other: _f1(_common_length(one, other), len(one), len(other)), predictions, references)


def pearson(predictions: Texts, references: Texts) -> float:
    """Pearson's correlation of the numbers that the texts write out, times 100; 0 where one side is constant."""
    return _correlation(stats.pearsonr, predictions, references)


def spearman(predictions: Texts, references: Texts) -> float:
    """Spearman's rank correlation, as pearson."""
    return _correlation(stats.spearmanr, predictions, references)


def rmse(predictions: Texts, references: Texts) -> float:
    """The root of the mean squared error, in the units of the values."""
    pairs = zip(map(float, predictions), map(float, references))
    return math.sqrt(math.fsum((one - other) ** 2 for one, other in pairs) / len(references))


def token_accuracy(predictions: Texts, references: Texts) -> float:
    """Share of equal tags; a text holds the tags of one row, with spaces."""
    pairs = [pair for one, other in zip(predictions, references) for pair in zip(one.split(), other.split())]
    return 100 * sum(one == other for one, other in pairs) / max(1, len(pairs))


def span_f1(predictions: Texts, references: Texts) -> float:
    """F1 of whole spans with their types, over all rows, as the CoNLL script counts them (B-, I- and O tags)."""
    found = [(spans(one), spans(other)) for one, other in zip(predictions, references)]
    n_common = sum(len(one & other) for one, other in found)
    return 100 * _f1(n_common, sum(len(one) for one, _ in found), sum(len(other) for _, other in found))


def spans(tags: str) -> set[tuple[str, int, int]]:
    """(type, first, behind the last) of each span; an I- that goes on from nothing of its type begins one."""
    found: set[tuple[str, int, int]] = set()
    kind, start = "", 0
    for place, tag in enumerate([*tags.split(), "O"]):
        mark, _, now = tag.partition("-")
        if kind and (mark != "I" or now != kind):
            found.add((kind, start, place))
            kind = ""
        if mark in ("B", "I") and not kind:
            kind, start = now, place
    return found


METRICS: dict[str, Metric] = {
    "accuracy": Metric(accuracy, higher_is_better=True),
    "f1": Metric(None, higher_is_better=True),
    "macro_f1": Metric(macro_f1, higher_is_better=True),
    "mcc": Metric(mcc, higher_is_better=True),
    "exact_match": Metric(exact_match, higher_is_better=True),
    "bleu": Metric(bleu, higher_is_better=True),
    "chrf": Metric(chrf, higher_is_better=True),
    "rouge1": Metric(rouge1, higher_is_better=True),
    "rouge2": Metric(rouge2, higher_is_better=True),
    "rougeL": Metric(rouge_l, higher_is_better=True),
    "pearson": Metric(pearson, higher_is_better=True),
    "spearman": Metric(spearman, higher_is_better=True),
    "rmse": Metric(rmse, higher_is_better=False),
    "span_f1": Metric(span_f1, higher_is_better=True),
    "token_accuracy": Metric(token_accuracy, higher_is_better=True),
    "loss": Metric(None, higher_is_better=False),
}


def _mean(f1: Callable[[list[str], list[str]], float], predictions: Texts, references: Texts) -> float:
    pairs = zip(predictions, references)
    return 100 * sum(f1(_words(one), _words(other)) for one, other in pairs) / len(references)


def _correlation(of: Callable[..., Any], predictions: Texts, references: Texts) -> float:
    one, other = [float(text) for text in predictions], [float(text) for text in references]
    return 0.0 if len(set(one)) < 2 or len(set(other)) < 2 else 100 * float(of(one, other).statistic)


def _words(text: str) -> list[str]:
    """Runs of a-z and 0-9 in the lower-cased text: letters beyond those separate words, as in the original ROUGE."""
    return re.findall(r"[a-z0-9]+", text.lower())


def _ngrams(words: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[start:] for start in range(n))))


def _overlap_f1(one: Counter[tuple[str, ...]], other: Counter[tuple[str, ...]]) -> float:
    return _f1((one & other).total(), one.total(), other.total())


def _f1(common: int, n_predicted: int, n_reference: int) -> float:
    """2 p r / (p + r) with p = common / n_predicted and r = common / n_reference; 0 where either side is empty."""
    return 2 * common / (n_predicted + n_reference) if common else 0.0


def _common_length(one: list[str], other: list[str]) -> int:
    """Length of the longest common subsequence, one row of the table at a time."""
    row = [0] * (len(other) + 1)
    for word in one:
        diagonal = 0
        for column, against in enumerate(other, start=1):
            above = row[column]
            row[column] = diagonal + 1 if word == against else max(above, row[column - 1])
            diagonal = above
    return row[-1]
