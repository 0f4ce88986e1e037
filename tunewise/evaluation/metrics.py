"""Metrics of answers, 0 to 100 (mcc and correlations: -100 to 100), but for those of which less is better: rmse in the
units of the values, ece 0 to 1, brier 0 to 2, loss in nats a token, and perplexity its exponential.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import sacrebleu

from tunewise.calibration import brier_score, expected_calibration_error, probabilities
from tunewise.data.shapes import Kind
from tunewise.errors import UserError, unknown
from tunewise.evaluation import overlap
from tunewise.evaluation.own_metrics import called, own_metric

Texts = Sequence[str]
MOST = 700.0
"""Nats of which the exponential is still a number."""


@dataclass(frozen=True)
class Answers:
    """What a part of a task was answered, and what is right, row by row; () for what such answers do not have."""

    predicted: Texts = ()
    expected: Texts = ()
    accepted: Sequence[Texts] = ()
    """Every right answer of each row, where there can be others than the expected one."""
    scores: Sequence[Mapping[str, float]] = ()
    """The log-probability of each label or choice, the predicted and the expected one among them."""
    by_length: Texts = ()
    """What would be predicted by the log-probability of a character."""
    positive: str = ""
    """The label that f1 counts."""
    loss: float = math.nan
    """Nats per token of the right answers."""

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]], loss: float = math.nan, positive: str = "") -> "Answers":
        """From rows of predictions.jsonl, which are all of one kind."""
        names = ("predicted", "expected", "accepted", "scores", "by_length")
        columns = {name: [row[name] for row in rows] for name in names if rows and name in rows[0]}
        return cls(**columns, positive=positive, loss=loss)


Read = Literal["predicted", "values", "scores", "by_length", "positive", "loss"]


@dataclass(frozen=True)
class Metric:
    """`of` answers, of which it reads what must be there."""

    of: Callable[[Answers], float]
    reads: Read = "predicted"
    by_row: Callable[[Answers], list[float] | None] | None = None
    """What it is of each row, where it can tell."""


def score(names: Sequence[str], answers: Answers) -> dict[str, float]:
    """The named metrics; UserError for an unknown one, or for one that reads what such answers do not have."""
    check(names)
    if len(answers.predicted) != len(answers.expected):
        raise ValueError(f"{len(answers.predicted)} predictions for {len(answers.expected)} references")
    given = {
        "predicted": answers.predicted,
        "values": answers.predicted,
        "scores": answers.scores,
        "by_length": answers.by_length,
        "positive": answers.positive,
        "loss": not math.isnan(answers.loss),
    }
    _refuse_without({read for read, there in given.items() if there}, names)
    return {called(name): metric_of(name).of(answers) for name in names}


def with_worth(rows: list[dict[str, Any]], name: str, answers: Answers) -> list[dict[str, Any]]:
    """These rows, of which `answers` are, each with its `worth`: what a metric of one's own is of it, where its
    function tells that."""
    of_rows = metric_of(name).by_row
    worths = None if of_rows is None else of_rows(answers)
    return rows if worths is None else [row | {"worth": worth} for row, worth in zip(rows, worths, strict=True)]


def check(names: Collection[str], kind: Kind | None = None) -> None:
    """UserError for a name that is no metric, and for one that says nothing of a task of this kind."""
    for name in names:
        metric_of(name)
    if kind is not None:
        _refuse_without(_TOLD_OF[kind], names)


def metric_of(name: str) -> Metric:
    """The metric that goes by this name, one of the user's own among them; UserError for none."""
    own = own_metric(name)
    if own is None:
        if name not in METRICS:
            raise unknown("metric", name, METRICS)
        return METRICS[name]
    if own.told in METRICS:
        raise UserError(
            f"{own.told} is a metric already, and {name} would be taken for it", "call the function otherwise"
        )
    return Metric(
        lambda answers: own.of(answers.predicted, answers.expected),
        by_row=lambda answers: own.by_row(answers.predicted, answers.expected),
    )


def _refuse_without(there: Collection[str], names: Collection[str]) -> None:
    for name in names:
        if (reads := metric_of(name).reads) not in there:
            raise UserError(f"{name} cannot be told of these answers: {_MISSING[reads]}", "leave it out")


def accuracy(predictions: Texts, references: Texts) -> float:
    """Share of equal pairs."""
    return 100 * sum(map(str.__eq__, predictions, references)) / len(references)


def f1(answers: Answers) -> float:
    """F1 of the positive label, 2 tp / (2 tp + fp + fn); 0 where it neither occurs nor is predicted."""
    predicted, actual = (
        [label == answers.positive for label in side] for side in (answers.predicted, answers.expected)
    )
    return 100 * overlap.f1(sum(map(min, predicted, actual)), sum(predicted), sum(actual))


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


def bleu(predictions: Texts, references: Texts) -> float:
    """Corpus BLEU by sacrebleu with its defaults (13a tokens, exponential smoothing).  Post 2018, arXiv:1804.08771."""
    return float(sacrebleu.corpus_bleu(list(predictions), [list(references)]).score)


def chrf(predictions: Texts, references: Texts) -> float:
    """Corpus chrF2 by sacrebleu with its defaults (character 6-grams, no words).  Popović 2015."""
    return float(sacrebleu.corpus_chrf(list(predictions), [list(references)]).score)


def pearson(predictions: Texts, references: Texts) -> float:
    """Pearson's correlation of the numbers that the texts write out, times 100; 0 where one side is constant."""
    return _correlation(_values(predictions), _values(references))


def spearman(predictions: Texts, references: Texts) -> float:
    """Spearman's rank correlation, as pearson; equal numbers share the mean of their ranks."""
    return _correlation(_ranks(_values(predictions)), _ranks(_values(references)))


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
    return 100 * overlap.f1(n_common, sum(len(one) for one, _ in found), sum(len(other) for _, other in found))


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


def ece(answers: Answers) -> float:
    """Expected calibration error in 15 bins, 0 to 1, of probabilities that add up to 1 over the labels or choices."""
    told = [dict(zip(scores, probabilities(list(scores.values())))) for scores in answers.scores]
    corrects = list(map(str.__eq__, answers.predicted, answers.expected))
    confidences = [one[predicted] for one, predicted in zip(told, answers.predicted)]
    return expected_calibration_error(confidences, corrects)


def brier(answers: Answers) -> float:
    """The Brier score of the same probabilities, 0 to 2."""
    places = [list(scores).index(right) for scores, right in zip(answers.scores, answers.expected)]
    return brier_score([probabilities(list(scores.values())) for scores in answers.scores], places)


def best_mean(of_row: Callable[[str, str], float], answers: Answers) -> float:
    """100 times the mean over rows of `of_row`, by the right answer that suits the predicted one best."""
    accepted = answers.accepted or [[one] for one in answers.expected]
    rows = zip(answers.predicted, accepted, strict=True)
    return 100 * math.fsum(max(of_row(one, other) for other in right) for one, right in rows) / len(accepted)


def _of_texts(fn: Callable[[Texts, Texts], float], reads: Read = "predicted") -> Metric:
    return Metric(lambda answers: fn(answers.predicted, answers.expected), reads)


def _of_rows(of_row: Callable[[str, str], float]) -> Metric:
    return Metric(partial(best_mean, of_row))


_CHOSEN = ("predicted", "scores", "positive", "loss")
_TOLD_OF: dict[Kind, tuple[Read, ...]] = {
    "classification": _CHOSEN,
    "multiple_choice": (*_CHOSEN, "by_length"),
    "minimal_pairs": (*_CHOSEN, "by_length"),
    "regression": ("predicted", "values", "loss"),
    "tagging": ("predicted", "loss"),
    "generation": ("predicted", "loss"),
    "language_modelling": ("loss",),
}
_MISSING: dict[Read, str] = {
    "predicted": "they are no answers to anything",
    "values": "they are no numbers",
    "scores": "they are not chosen by the log-probabilities of labels or choices",
    "by_length": "they are not chosen among texts of their own",
    "positive": "no label is named as the positive one",
    "loss": "their loss was not measured",
}
METRICS: dict[str, Metric] = {
    "accuracy": _of_texts(accuracy),
    "accuracy_norm": Metric(lambda answers: accuracy(answers.by_length, answers.expected), "by_length"),
    "f1": Metric(f1, "positive"),
    "macro_f1": _of_texts(macro_f1),
    "mcc": _of_texts(mcc),
    "ece": Metric(ece, "scores"),
    "brier": Metric(brier, "scores"),
    "exact_match": _of_rows(overlap.exact_match),
    "normalised_match": _of_rows(overlap.normalised_match),
    "token_f1": _of_rows(overlap.token_f1),
    "numeric_match": _of_rows(overlap.numeric_match),
    "bleu": _of_texts(bleu),
    "chrf": _of_texts(chrf),
    "rouge1": _of_rows(partial(overlap.rouge_n, n=1)),
    "rouge2": _of_rows(partial(overlap.rouge_n, n=2)),
    "rougeL": _of_rows(overlap.rouge_l),
    "rougeLsum": _of_rows(overlap.rouge_lsum),
    "pearson": _of_texts(pearson, "values"),
    "spearman": _of_texts(spearman, "values"),
    "rmse": _of_texts(rmse, "values"),
    "span_f1": _of_texts(span_f1),
    "token_accuracy": _of_texts(token_accuracy),
    "loss": Metric(lambda answers: answers.loss, "loss"),
    "perplexity": Metric(lambda answers: math.exp(min(answers.loss, MOST)), "loss"),
}


def _values(texts: Texts) -> np.ndarray:
    return np.array([float(text) for text in texts])


def _ranks(values: np.ndarray) -> np.ndarray:
    """From 1 on: scipy's `rankdata`, without the quarter of a second that scipy.stats takes to import."""
    if np.isnan(values).any():
        return values  # of a run that diverged: nothing correlates with it
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[which]


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    return 0.0 if np.ptp(one) == 0 or np.ptp(other) == 0 else 100 * float(np.corrcoef(one, other)[0, 1])
