"""How far apart two models of one base answer the same rows: their logits where labels are, and what they answer."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from tunewise.data.encode import Encoded, encode_prompt
from tunewise.data.examples import Example
from tunewise.data.streamed import some_of
from tunewise.data.task import Task
from tunewise.engine.backend import chosen
from tunewise.engine.batches import IGNORED, by_length, plain
from tunewise.engine.decoder_inputs import decoder_inputs
from tunewise.engine.loss import label_logits
from tunewise.engine.objectives import Labels, Writing, encode_rows, objective_for
from tunewise.errors import UserError
from tunewise.evaluation.by_source import Prepared, examples_by_source
from tunewise.evaluation.evaluate import LONGEST, Asking, Evaluation, answer, prepare
from tunewise.evaluation.suite import N_RESAMPLES, Look, look_of
from tunewise.models.load import Base
from tunewise.stats import paired_bootstrap

ROWS_AT_A_TIME = 16
LOGITS_AT_A_TIME = 1 << 27
"""Logits of one forward, where more rows than one would make more: 512 MiB in float32."""

DRAWN_WITH = 0
"""The seed of the rows that are taken of many."""
PIECE = 1 << 23
"""Logits that are compared at a time: 64 MiB in float64."""

LogitsOf = Callable[[Sequence[Encoded]], Tensor]
"""Rows -> the logits of one model at their labels, (labels, vocabulary or classes)."""


@dataclass(frozen=True)
class Apart:
    """Two models, over all logits at all labels of some rows."""

    n_labels: int
    largest_change: float
    """The largest absolute difference of a logit."""
    mean_change: float
    """The mean absolute difference of a logit."""
    kl: float | None
    """KL(first ‖ second) in nats a label, of what may stand there; None where a value is told."""
    agreement: float | None
    """The share of labels at which both find the same token or class the most probable; None of values."""


@dataclass(frozen=True)
class Sheet:
    """Rows that are put to several models of one base: as questions for the metrics, with labels for the logits."""

    told: str
    """What they are, in words."""
    rows: Sequence[Encoded]
    questions: Prepared | None = None
    """None where there is no task, and so no metric."""
    asking: Asking = field(default_factory=Asking)

    def answers(self, base: Base, prefix_ids: Sequence[int] = ()) -> Evaluation | None:
        """What `base`, with whatever is attached to it, answers and scores."""
        if self.questions is None:
            return None
        return answer(base, self.questions, prefix_ids=prefix_ids, asking=self.asking)


def sheet_of(
    base: Base,
    task: Task,
    examples: Sequence[Example],
    told: str,
    *,
    n_prefix: int = 0,
    shots: int = 0,
    seed: int = 0,
    asking: Asking = Asking(),
) -> Sheet:
    """These examples as `base` reads them, cut to its context less `n_prefix`; of text, every token but the first is a
    label. UserError for no examples, and for rows none of which fits."""
    if not examples:
        raise UserError(f"{task.name} has no rows to measure on", "give others: --data FILE")
    questions = prepare(
        base, task, examples, n_prefix=n_prefix, shots=shots, seed=seed, balanced=asking.balanced,
        calibration=asking.calibration,
    )  # fmt: skip
    longest = (base.longest or LONGEST) - n_prefix
    by_source = {"": examples} if task.mixture is None else examples_by_source(task, examples)
    rows = [row for name, found in by_source.items() for row in _rows(base, task.each[name], found, longest)]
    return Sheet(told, rows, questions, asking)


def sheet_of_texts(base: Base, texts: Sequence[str], told: str) -> Sheet:
    """Texts without a task; every token but the first is a label."""
    return Sheet(told, _text_rows(base, texts, base.longest or LONGEST))


def a_few(task: Task, parts: Sequence[Sequence[Example]], limit: int) -> list[Example]:
    """At most `limit` examples, drawn from the first part that has any left, then the next; of a mixture as many of
    each source."""
    if task.mixture is None:
        return _drawn(parts, limit)
    by_source = examples_by_source(task, list(chain.from_iterable(parts))).values()
    return [example for found in by_source for example in _drawn([found], max(1, limit // len(by_source)))]


def _drawn(parts: Sequence[Sequence[Example]], limit: int) -> list[Example]:
    found: list[Example] = []
    for part in parts:
        found += some_of(part, limit - len(found), DRAWN_WITH) if len(found) < limit else ()
    return found


@torch.no_grad()
def logits_at_labels(base: Base, rows: Sequence[Encoded], prefix_ids: Sequence[int] = ()) -> Tensor:
    """What `base`, with whatever is attached to it, says where these rows have labels: (labels, C)."""
    objective = objective_for(base, prefix_ids)
    with chosen(base.model.device):
        batch = objective.collate(rows).to(base.model.device)
        if isinstance(objective, Labels):
            logits = objective.logits(base.model, batch)
            return logits[batch.labels != IGNORED] if base.head.kind == "tags" else logits
        if isinstance(objective, Writing):
            entered = decoder_inputs(base.model, batch.labels)
            logits = base.model(**batch.inputs, decoder_input_ids=entered, use_cache=False).logits
            return logits[batch.labels != IGNORED]
        logits, labels = label_logits(base.model, batch)
        return logits[labels != IGNORED]


@torch.no_grad()
def apart(rows: Sequence[Encoded], n_classes: int, first: LogitsOf, second: LogitsOf) -> Apart:
    """Both models on the same rows, a few at a time, so that neither's logits are kept; `n_classes` is C."""
    n_labels, largest, total, divergence, n_same = 0, 0.0, 0.0, 0.0, 0
    lengths = [len(row.ids) + len(row.labels) for row in rows]
    at_once = min(ROWS_AT_A_TIME, max(1, LOGITS_AT_A_TIME // (n_classes * max(lengths, default=1))))
    for indices in by_length(lengths, at_once):
        batch = [rows[index] for index in indices]
        for one, other in _in_pieces(first(batch), second(batch)):
            change = (one - other).abs()
            n_labels += len(change)
            largest = max(largest, float(change.max()))
            total += float(change.sum())
            p, q = one.log_softmax(-1), other.log_softmax(-1)
            divergence += float((p.exp() * (p - q)).sum())
            n_same += int((one.argmax(-1) == other.argmax(-1)).sum())
    n = max(1, n_labels)
    told = (None, None) if n_classes == 1 else (max(0.0, divergence / n), n_same / n)
    return Apart(n_labels, largest, total / (n * n_classes), *told)


def changed_answers(first: Evaluation | None, second: Evaluation | None) -> float | None:
    """The share of questions that the two answer unlike; None where there are no answers, as of texts."""
    if first is None or second is None or "predicted" not in first.predictions[0]:
        return None
    pairs = zip(first.predictions, second.predictions, strict=True)
    return sum(one["predicted"] != other["predicted"] for one, other in pairs) / len(first.predictions)


def score_change(task: Task, first: Evaluation | None, second: Evaluation | None) -> dict[str, Any] | None:
    """second − first in the metric that decides, with the 95 % bootstrap interval over the rows.

    A loss is a ratio, of sums over rows of nats and of tokens: its rows are resampled as that ratio moves with each,
    d + n (dᵢ − d) / mean n. The interval is None where the metric is no mean over rows (an F1 over classes), and all is
    None where there is no task, and of a mixture.
    """
    if first is None or second is None or task.mixture is not None:
        return None
    old, new = look_of(task, first), look_of(task, second)
    counts = [row.get("n_tokens", 1) for row in first.predictions]
    change, interval = new.value - old.value, None
    if len(counts) > 1 and all(_is_their_mean(look, counts) for look in (old, new)):
        moved = [
            change + n * (after - before - change) / fmean(counts)
            for n, before, after in zip(counts, old.items.values(), new.items.values(), strict=True)
        ]
        found = paired_bootstrap(moved, [0.0] * len(moved), n_resamples=N_RESAMPLES)
        interval = [found.low, found.high]
    return {"metric": old.metric, "change": change, "interval": interval}


def metrics_of(found: Evaluation | None) -> dict[str, Any] | None:
    """The metrics of an evaluation as json takes them: what is no number is None."""
    if found is None:
        return None
    return {name: value if math.isfinite(value) else None for name, value in found.metrics.items()}


def n_classes_of(base: Base) -> int:
    """C: how many logits there are at a label."""
    if base.head.kind == "lm":
        return base.model.config.get_text_config().vocab_size
    return 1 if base.head.kind == "value" else len(base.head.labels)


def _is_their_mean(look: Look, counts: Sequence[int]) -> bool:
    """Whether a metric is the mean of what its rows have of it, each weighing as it counts."""
    mean = math.fsum(n * value for n, value in zip(counts, look.items.values(), strict=True)) / sum(counts)
    return math.isclose(mean, look.value, rel_tol=1e-6, abs_tol=1e-6)


def _rows(base: Base, task: Task, examples: Sequence[Example], longest: int) -> Sequence[Encoded]:
    if task.kind == "language_modelling":
        return _text_rows(base, [example.text for example in examples], longest)
    return encode_rows(base, task, examples, longest)[0]


def _text_rows(base: Base, texts: Sequence[str], longest: int) -> list[Encoded]:
    every = [encode_prompt(text, base.tokenizer)[:longest] for text in texts]
    return [plain("", ids, len(ids) - 1) for ids in every if len(ids) > 1]


def _in_pieces(one: Tensor, other: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Both in float64, in which a KL of rounding alone is still one, so many rows at a time that no copy is large."""
    n = max(1, PIECE // one.shape[-1])
    for a, b in zip(one.split(n), other.split(n), strict=True):
        yield a.double(), b.to(a.device).double()
