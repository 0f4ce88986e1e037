"""What a model's answers to an out-of-domain set are worth, by the labels of that set."""

from dataclasses import replace

from tunewise.data.out_of_domain import OutOfDomain
from tunewise.evaluation.evaluate import Evaluation
from tunewise.evaluation.metrics import Answers, metric_of, score, with_worth
from tunewise.evaluation.own_metrics import asked_as


def by_its_labels(found: Evaluation, asked: OutOfDomain) -> Evaluation:
    """The evaluation of `asked.task.test`, each chosen class told as the label that it counts as.

    Where the set has labels of its own, a row keeps the class under `chosen`, a class that counts as none of them is
    wrong, and metrics of anything but these labels are left out: a coarser one has no probability of one answer.
    """
    if not asked.counts_as:
        return found
    rows = []
    for row, expected in zip(found.predictions, asked.expected, strict=True):
        told = asked.counts_as.get(row["predicted"], row["predicted"])
        named = {"expected": expected, "predicted": told, "correct": told == expected, "chosen": row["predicted"]}
        rows.append(row | named)
    asked_for = [asked_as(told, asked.task.metrics) for told in found.metrics]
    names = [name for name in asked_for if metric_of(name).reads == "predicted"]
    answers = Answers.of(rows)
    rows = with_worth(rows, names[0], answers) if names else rows
    return replace(found, metrics=score(names, answers), predictions=rows)
