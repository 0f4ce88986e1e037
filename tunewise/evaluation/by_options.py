"""Answers that are chosen among given ones: a class in words, a choice, the better sentence of a minimal pair.

The log-probability of an option is summed over its tokens after the prompt; the most probable one is the answer. Of
choices it is told as well which has the highest log-probability a character (`acc_norm` of lm-evaluation-harness,
where the space before a choice is no character of it).
"""

from collections.abc import Sequence
from typing import Any

from tunewise.evaluation.questions import Questions


def chosen_rows(questions: Questions, scores: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    """A row for every question, from the log-probabilities of its options (nats)."""
    task = questions.task
    rows: list[dict[str, Any]] = []
    for example, values in zip(questions.examples, scores, strict=True):
        names = task.option_names(example)
        # of a minimal pair that is equally probable the bad one, so that a model without a preference earns nothing
        order = reversed(range(len(names))) if task.kind == "minimal_pairs" else range(len(names))
        predicted = names[max(order, key=values.__getitem__)]
        row = {
            "id": example.id,
            "prompt": example.prompt if task.kind != "minimal_pairs" else example.choices[0],
            "expected": example.label,
            "predicted": predicted,
            "correct": predicted == example.label,
            "scores": {name: round(value, 6) for name, value in zip(names, values, strict=True)},
        }
        if example.choices:
            texts = [text.strip() for text in example.choices]
            per_character = [value / len(text) for value, text in zip(values, texts, strict=True)]
            row["by_length"] = names[max(range(len(names)), key=per_character.__getitem__)]
            row["choices"] = dict(zip(names, texts, strict=True))
        rows.append(row)
    return rows


def right_losses(questions: Questions, scores: Sequence[Sequence[float]]) -> list[float]:
    """The loss of the right option of every question (nats, summed over its tokens)."""
    return [
        -values[questions.task.option_names(example).index(str(example.label))]
        for example, values in zip(questions.examples, scores, strict=True)
    ]
