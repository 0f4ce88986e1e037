"""A model on a part of a task: metrics, and a row for every question.

Classification, multiple choice and minimal pairs: the option with the highest log-probability (`by_options`), that of
labels calibrated where that is asked for, or the label that a classifier on top tells; regression and tagging: what
that head says.
Generation: greedy or drawn, up to the end token, the task's separator or max_new_tokens; white space at its ends is
cut off.
Language modelling: nats per token, every token of a document but its first.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import Tensor

from tunewise.data.encode import Ids, encode_prompt, end_ids
from tunewise.data.examples import Example
from tunewise.data.task import Task
from tunewise.data.written import SeparateIds
from tunewise.directions import LOWER_IS_BETTER
from tunewise.engine.batches import plain
from tunewise.engine.decoding import Decoding, Sampling
from tunewise.engine.objectives import encode_rows, objective_for
from tunewise.engine.trunk import Trunk
from tunewise.errors import UserError
from tunewise.evaluation.asks import Asks, ByHead, Documents, How, Likelihoods, Texts, alone, timed
from tunewise.evaluation.by_options import chosen_rows, right_losses
from tunewise.evaluation.by_source import BySource, Prepared, examples_by_source, rows_of, scores_of
from tunewise.evaluation.label_prior import calibrated, prior, questions_without_content
from tunewise.evaluation.metrics import Answers, score, with_worth
from tunewise.evaluation.questions import LabelledRows, Questions, ask, stop_text
from tunewise.methods.selective.frozen import Calibration
from tunewise.models.families import ENCODER_DECODER
from tunewise.models.load import Base

LONGEST = 512
"""Tokens of a text for a classifier whose base names no limit."""


@dataclass(frozen=True)
class Asking:
    """How questions are asked."""

    packing: bool = True
    """Prompts behind one another without padding, where the base runs so; the answers are the same but for rounding."""
    sampling: Sampling | None = None
    """How the tokens of generated answers are drawn; None takes the most probable one."""
    balanced: bool = True
    """As many demonstrations of each class; otherwise classes keep their shares."""
    calibration: Calibration = "none"
    """How the labels' log-probabilities are calibrated."""


@dataclass(frozen=True)
class Evaluation:
    """`metrics` in the task's order, scaled as `metrics.py` says; `predictions` in the order of the examples."""

    metrics: dict[str, float]
    predictions: list[dict[str, Any]]
    n_dropped: int = 0
    """Demonstrations left out over all prompts, because they did not fit into the context."""
    n_truncated: int = 0
    """Prompts that lost their own beginning for the same reason."""
    n_read: int = 0
    """Tokens of all prompts, what every sequence begins with aside."""
    n_bare: int = 0
    """Of these the questions' own."""
    seconds: float = field(default=0.0, compare=False)
    """What all answers took."""

    @property
    def main(self) -> float:
        """The task's first metric, turned so that higher is better."""
        name, value = next(iter(self.metrics.items()))
        return -value if name in LOWER_IS_BETTER else value


def evaluate_task(
    base: Base,
    task: Task,
    examples: Sequence[Example],
    *,
    prefix_ids: Sequence[int] = (),
    shots: int = 0,
    seed: int = 0,
    batch_size: int = 32,
    asking: Asking = Asking(),
) -> Evaluation:
    """Ask `base`, with whatever is attached to it, every example, after `shots` demonstrations from the train part.

    `prefix_ids` are the virtual tokens of a soft prompt. Raises UserError where there is nothing to ask, and where
    demonstrations are wanted and the task has none.
    """
    if not examples:
        raise UserError(f"{task.name} has no examples in this part", "choose another split: train, dev or test")
    if shots and not task.train:
        raise UserError(f"{task.name} has no training examples to show", "evaluate it with --shots 0")
    questions = prepare(
        base, task, examples, n_prefix=len(prefix_ids), shots=shots, seed=seed,
        balanced=asking.balanced, calibration=asking.calibration,
    )  # fmt: skip
    return answer(base, questions, prefix_ids=prefix_ids, batch_size=batch_size, asking=asking)


def prepare(
    base: Base,
    task: Task,
    examples: Sequence[Example],
    *,
    n_prefix: int = 0,
    shots: int = 0,
    seed: int = 0,
    balanced: bool = True,
    calibration: Calibration = "none",
) -> Prepared:
    """The questions as ids, cut to the base's context less `n_prefix`; to be asked several times."""
    of_task = partial(
        _prepare, base, n_prefix=n_prefix, shots=shots, seed=seed, balanced=balanced, calibration=calibration
    )
    if task.mixture is None:
        return of_task(task, examples)
    parts = {name: of_task(task.each[name], found) for name, found in examples_by_source(task, examples).items()}
    return BySource(task, parts)


def _prepare(
    base: Base,
    task: Task,
    examples: Sequence[Example],
    *,
    n_prefix: int,
    shots: int,
    seed: int,
    balanced: bool,
    calibration: Calibration,
) -> Questions | LabelledRows:
    if base.tokenizer is None or base.head.kind != "lm":
        if shots:
            raise UserError(f"{base.name} answers by a classifier, which reads no demonstrations", "set shots to 0")
        if calibration != "none":
            raise UserError(
                f"{base.name} answers by a classifier; method.calibration={calibration} is of answers in words",
                "leave method.calibration out, or set head=lm",
            )
        if task.labels != base.head.labels and task.kind != "regression":
            raise UserError(
                f"{task.name} has other labels than {base.name} answers by: {', '.join(base.head.labels)}",
                "ask it of a language model: head=lm",
            )
        rows, _ = encode_rows(base, task, examples, (base.longest or LONGEST) - n_prefix)
        return LabelledRows(task, tuple(examples), rows)
    context = base.anatomy.context_length
    room = None if context is None else context - n_prefix
    ids_by = SeparateIds if base.anatomy.kind == ENCODER_DECODER else Ids
    encode = partial(
        ask, task, tokenizer=base.tokenizer, ids_by=ids_by, room=room, shots=shots, seed=seed, balanced=balanced
    )
    without_content = questions_without_content(task, calibration)
    return replace(encode(examples), without_content=encode(without_content) if without_content else None)


def probes_of(base: Base, questions: Prepared) -> list[dict[str, Tensor]]:
    """What the forward takes for each of these questions alone."""
    if isinstance(questions, BySource):
        return [probe for part in questions.parts.values() for probe in probes_of(base, part)]
    if isinstance(questions, LabelledRows):
        rows = questions.rows
    else:
        rows = [plain("", prompt, 0) for prompt in questions.prompts]
    return [objective_for(base).probe(row) for row in rows]


def answer(
    base: Base,
    questions: Prepared,
    *,
    prefix_ids: Sequence[int] = (),
    batch_size: int = 32,
    asking: Asking = Asking(),
    trunk: Trunk | None = None,
) -> Evaluation:
    """What `base`, which must be in evaluation mode, makes of questions from `prepare`.

    `trunk` is what is frozen of it: a classifier's rows, and options where nothing but the head is live, run through it
    once, however often they are asked.
    """
    return alone(base, asks_of(base, questions, asking), How(tuple(prefix_ids), batch_size, asking.packing, trunk))


def asks_of(base: Base, questions: Prepared, asking: Asking = Asking()) -> Asks[Evaluation]:
    """The same, as what is to be asked of whichever model."""
    if isinstance(questions, BySource):
        found = {}
        for name, part in questions.parts.items():
            found[name] = yield from asks_of(base, part, asking)
        return _of_all(questions, found)
    if isinstance(questions, LabelledRows):
        evaluation, seconds = yield from timed(_by_head(questions))
        n_read = n_bare = sum(len(row.ids) for row in questions.rows)
    else:
        evaluation, seconds = yield from timed(_in_words(base, questions, asking))
        n_read, n_bare = sum(map(len, questions.prompts)), sum(questions.n_bare)
    return replace(evaluation, n_read=n_read, n_bare=n_bare, seconds=seconds)


def _of_all(questions: BySource, found: Mapping[str, Evaluation]) -> Evaluation:
    """The evaluation of a mixture, of those of its sources."""
    each = found.values()
    return Evaluation(
        metrics=scores_of(questions.task, {name: one.metrics for name, one in found.items()}),
        predictions=rows_of({name: one.predictions for name, one in found.items()}),
        n_dropped=sum(one.n_dropped for one in each),
        n_truncated=sum(one.n_truncated for one in each),
        n_read=sum(one.n_read for one in each),
        n_bare=sum(one.n_bare for one in each),
        seconds=math.fsum(one.seconds for one in each),
    )


def _by_head(questions: LabelledRows) -> Asks[Evaluation]:
    rows, loss = yield ByHead(questions)
    return _evaluation(questions.task, rows, loss, n_truncated=sum(row.truncated for row in questions.rows))


def _in_words(base: Base, questions: Questions, asking: Asking) -> Asks[Evaluation]:
    """What a language model answers."""
    if questions.task.kind in ("language_modelling", "minimal_pairs") and base.anatomy.kind == ENCODER_DECODER:
        raise UserError(
            f"{base.name} is an encoder-decoder, which has no loss of a plain text", "give it prompts and completions"
        )
    if questions.task.kind == "generation":
        return _generate(base, questions, asking)
    return _model_language(base, questions) if questions.task.kind == "language_modelling" else _choose(questions)


def _choose(questions: Questions) -> Asks[Evaluation]:
    found = yield Likelihoods(questions.prompts, questions.options)
    of_labels = ()
    if questions.without_content is not None:
        of_labels = yield Likelihoods(questions.without_content.prompts, questions.without_content.options)
    return classified(questions, found, prior(of_labels))


def classified(questions: Questions, scores: Sequence[Sequence[float]], of_labels: Sequence[float] = ()) -> Evaluation:
    """What was answered, where each question's options have these log-probabilities; `of_labels` are those without a
    question, by which answers are calibrated; the loss is not."""
    rows = chosen_rows(questions, calibrated(scores, of_labels))
    return _asked(questions, rows, right_losses(questions, scores))


def written(base: Base, questions: Questions, asking: Asking) -> Texts:
    """What is written behind each question: up to an end token, the task's separator, or its max_new_tokens."""
    stop, ends = stop_text(questions.task), end_ids(questions.examples, base.tokenizer)
    how = Decoding(questions.task.max_new_tokens, (stop,) if stop else (), asking.sampling, ends)
    return Texts(questions.prompts, how)


def _generate(base: Base, questions: Questions, asking: Asking) -> Asks[Evaluation]:
    task = questions.task
    texts = yield written(base, questions, asking)
    rows = []
    for example, ids, text in zip(questions.examples, questions.answers, texts, strict=True):
        # what a chat template writes may hold special tokens, which are left out of what is generated
        answer = example.answer if task.chat is None else base.tokenizer.decode(ids, skip_special_tokens=True)
        expected, predicted = answer.strip(), text.strip()
        rows.append(
            {
                "id": example.id,
                "prompt": example.prompt,
                "expected": expected,
                "predicted": predicted,
                "correct": any(predicted.split() == one.split() for one in example.accepted or (expected,)),
            }
            | ({"accepted": list(example.accepted)} if example.accepted else {})
        )
    losses: list[float] = []
    if {"loss", "perplexity"} & set(task.metrics):
        found = yield Likelihoods(questions.prompts, [[ids] for ids in questions.answers])
        losses = [-value for (value,) in found]
    return _asked(questions, rows, losses)


def _model_language(base: Base, questions: Questions) -> Asks[Evaluation]:
    losses = yield Documents([encode_prompt(example.text, base.tokenizer) for example in questions.examples])
    rows = [
        {"id": example.id, "loss": loss / max(1, n_tokens), "n_tokens": n_tokens}
        for example, (loss, n_tokens) in zip(questions.examples, losses, strict=True)
    ]
    total = math.fsum(loss for loss, _ in losses) / max(1, sum(n_tokens for _, n_tokens in losses))
    return _evaluation(questions.task, rows, total)


def _asked(questions: Questions, rows: list[dict[str, Any]], losses: list[float]) -> Evaluation:
    loss = math.fsum(losses) / sum(len(ids) for ids in questions.answers) if losses else math.nan
    return _evaluation(questions.task, rows, loss, sum(questions.n_dropped), sum(questions.truncated))


def _evaluation(
    task: Task, rows: list[dict[str, Any]], loss: float, n_dropped: int = 0, n_truncated: int = 0
) -> Evaluation:
    answers = Answers.of(rows, loss, task.positive)
    metrics, rows = score(task.metrics, answers), with_worth(rows, task.metrics[0], answers)
    return Evaluation(metrics, rows, n_dropped, n_truncated)
