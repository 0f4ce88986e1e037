"""What a language model would answer to any question, by which its answers are calibrated: a prior over the labels.

- contextual: log p(y | x) − log p_cf(y), p_cf the mean over questions without content ("N/A", "[MASK]", ""), asked as
  all others are. Zhao et al. 2021, arXiv:2102.09690, section 5: softmax(W p) with W = diag(p_cf)⁻¹ and b = 0.
- pmi: log p(y | x) − log p(y | the end of the prompt alone, such as "Label:"). Holtzman et al. 2021, arXiv:2104.08315,
  section 3: pointwise mutual information of question and answer in their domain.

Both are measured behind the same demonstrations as the questions.
"""

import math
from collections.abc import Sequence

from tunewise.data.examples import Example, Part
from tunewise.data.task import Task
from tunewise.data.template import Template, fill
from tunewise.errors import UserError
from tunewise.methods.selective.frozen import Calibration

CONTENT_FREE = ("N/A", "[MASK]", "")


def questions_without_content(task: Task, calibration: Calibration) -> tuple[Example, ...]:
    """What is asked to measure it; () for none. UserError for answers that are no labels."""
    if calibration == "none":
        return ()
    if task.kind != "classification":
        raise UserError(
            f"method.calibration={calibration} weighs labels against each other, and the answers of {task.name} are "
            "written freely",
            "leave method.calibration out",
        )
    if calibration == "pmi":
        prompts = [task.template.end]
    else:
        slots = Template(task.template.prompt, "").fields()
        prompts = [fill(task.template.prompt, dict.fromkeys(slots, text)) for text in CONTENT_FREE]
    answer = Part(task.template.option(task.labels[0]), True)
    return tuple(
        Example(f"{calibration}:{number}", (Part(prompt, False), answer), task.labels[0])
        for number, prompt in enumerate(prompts)
    )


def prior(found: Sequence[Sequence[float]]) -> list[float]:
    """The log of the mean probability of each label over questions without content; [] for no such question."""
    means = []
    for of_label in zip(*found, strict=True):
        top = max(of_label)  # taken out, so that none of a rare label's probabilities becomes 0
        means.append(top + math.log(math.fsum(math.exp(value - top) for value in of_label) / len(of_label)))
    return means


def calibrated(scores: Sequence[Sequence[float]], prior: Sequence[float]) -> list[list[float]]:
    """The log-probabilities of the labels of each question, less their prior ones, where there are any."""
    if not prior:
        return [list(of_prompt) for of_prompt in scores]
    return [[value - expected for value, expected in zip(of_prompt, prior, strict=True)] for of_prompt in scores]
