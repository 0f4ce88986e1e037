"""A model on a part of a task: metrics, and a row for every question.

Classification: the label whose answer has the highest log-probability (summed over its tokens) after the prompt.
Generation: greedy, up to the end token, the task's separator or max_new_tokens; white space at the ends is cut off.
Language modelling: nats per token, every token of a document but its first.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tunewise.data.encode import encode_prompt
from tunewise.data.examples import Example
from tunewise.data.task import Task
from tunewise.engine.decoding import greedy
from tunewise.engine.scoring import option_log_probabilities, sequence_losses
from tunewise.errors import UserError
from tunewise.evaluation.metrics import METRICS, score
from tunewise.evaluation.questions import Questions, ask, stop_text
from tunewise.models.anatomy import read_anatomy


@dataclass(frozen=True)
class Evaluation:
    """`metrics` in the task's order, 0 to 100 (loss: nats per token); `predictions` in the order of the examples."""

    metrics: dict[str, float]
    predictions: list[dict[str, Any]]
    n_dropped: int = 0
    """Demonstrations left out over all prompts, because they did not fit into the context."""
    n_truncated: int = 0
    """Prompts that lost their own beginning for the same reason."""

    @property
    def main(self) -> float:
        """The task's first metric, turned so that higher is better."""
        name, value = next(iter(self.metrics.items()))
        return value if METRICS[name].higher_is_better else -value


def evaluate_task(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    examples: Sequence[Example],
    *,
    prefix_ids: Sequence[int] = (),
    shots: int = 0,
    seed: int = 0,
    batch_size: int = 32,
) -> Evaluation:
    """Ask `model` every example of `examples`, after `shots` demonstrations from the task's train part.

    `prefix_ids` are the virtual tokens of a soft prompt. Raises UserError where there is nothing to ask, and where
    demonstrations are wanted and the task has none.
    """
    if not examples:
        raise UserError(f"{task.name} has no examples in this part", "choose another split: train, dev or test")
    if shots and not task.train:
        raise UserError(f"{task.name} has no training examples to show", "evaluate it with --shots 0")
    questions = prepare(model, tokenizer, task, examples, n_prefix=len(prefix_ids), shots=shots, seed=seed)
    return answer(model, tokenizer, questions, prefix_ids=prefix_ids, batch_size=batch_size)


def prepare(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    examples: Sequence[Example],
    *,
    n_prefix: int = 0,
    shots: int = 0,
    seed: int = 0,
) -> Questions:
    """The questions as ids, cut to the model's context less `n_prefix`; to be asked several times."""
    context = read_anatomy(model).context_length
    room = None if context is None else context - n_prefix
    return ask(task, examples, tokenizer, room=room, shots=shots, seed=seed)


def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Questions,
    *,
    prefix_ids: Sequence[int] = (),
    batch_size: int = 32,
) -> Evaluation:
    """What `model`, which must be in evaluation mode, makes of questions from `prepare`."""
    carry_out = {"classification": _classify, "generation": _generate, "language_modelling": _model_language}
    return carry_out[questions.task.kind](model, tokenizer, questions, prefix_ids, batch_size)


def _classify(model, tokenizer, questions: Questions, prefix_ids, batch_size) -> Evaluation:
    labels = questions.task.labels
    pad_id = tokenizer.pad_token_id
    scores = option_log_probabilities(
        model, questions.prompts, questions.options, pad_id=pad_id, prefix_ids=prefix_ids, batch_size=batch_size
    )
    rows = []
    for example, values in zip(questions.examples, scores, strict=True):
        chosen = labels[max(range(len(labels)), key=values.__getitem__)]
        named = {label: round(value, 6) for label, value in zip(labels, values, strict=True)}
        rows.append(_row(example, example.label, chosen, chosen == example.label) | {"scores": named})
    expected = [labels.index(str(example.label)) for example in questions.examples]
    losses = [-values[index] for values, index in zip(scores, expected, strict=True)]
    return _evaluation(questions, rows, losses)


def _generate(model, tokenizer, questions: Questions, prefix_ids, batch_size) -> Evaluation:
    task = questions.task
    texts = greedy(
        model,
        tokenizer,
        questions.prompts,
        task.max_new_tokens,
        prefix_ids=prefix_ids,
        stop=stop_text(task),
        batch_size=batch_size,
    )
    rows = []
    for example, text in zip(questions.examples, texts, strict=True):
        expected, predicted = example.answer.strip(), text.strip()
        rows.append(_row(example, expected, predicted, predicted.split() == expected.split()))
    losses: list[float] = []
    if "loss" in task.metrics:
        options = [[ids] for ids in questions.answers]
        scores = option_log_probabilities(
            model, questions.prompts, options, pad_id=tokenizer.pad_token_id, prefix_ids=prefix_ids
        )
        losses = [-values[0] for values in scores]
    return _evaluation(questions, rows, losses)


def _model_language(model, tokenizer, questions: Questions, prefix_ids, batch_size) -> Evaluation:
    context = read_anatomy(model).context_length
    room = None if context is None else context - len(prefix_ids)
    documents = [encode_prompt(example.text, tokenizer)[:room] for example in questions.examples]
    losses = sequence_losses(
        model, documents, pad_id=tokenizer.pad_token_id, prefix_ids=prefix_ids, batch_size=min(16, batch_size)
    )
    rows = [
        {"id": example.id, "loss": loss / max(1, n_tokens), "n_tokens": n_tokens}
        for example, (loss, n_tokens) in zip(questions.examples, losses, strict=True)
    ]
    total = math.fsum(loss for loss, _ in losses) / max(1, sum(n_tokens for _, n_tokens in losses))
    return Evaluation({"loss": total}, rows)


def _row(example: Example, expected: str | None, predicted: str, is_correct: bool) -> dict[str, Any]:
    return {
        "id": example.id,
        "prompt": example.prompt,
        "expected": expected,
        "predicted": predicted,
        "correct": is_correct,
    }


def _evaluation(questions: Questions, rows: list[dict[str, Any]], losses: list[float]) -> Evaluation:
    names = questions.task.metrics
    metrics = score(names, [row["predicted"] for row in rows], [row["expected"] for row in rows])
    if "loss" in names:
        metrics["loss"] = math.fsum(losses) / sum(len(ids) for ids in questions.answers)
    ordered = {name: metrics[name] for name in names}
    return Evaluation(ordered, rows, sum(questions.n_dropped), sum(questions.truncated))
