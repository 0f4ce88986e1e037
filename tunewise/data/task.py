"""A task: examples in three splits, and how to ask, answer and score them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tunewise.data.build import BAD, GOOD
from tunewise.data.chat_template import ChatTemplate
from tunewise.data.choices import letter
from tunewise.data.examples import Example, Ledger
from tunewise.data.mixture import Mixture
from tunewise.data.replay import Rehearsed
from tunewise.data.shapes import Kind
from tunewise.data.template import Template

METRICS: dict[Kind, tuple[str, ...]] = {
    "classification": ("accuracy", "macro_f1", "mcc", "ece", "brier"),
    "regression": ("pearson", "spearman", "rmse"),
    "tagging": ("span_f1", "token_accuracy"),
    "generation": ("rougeL", "chrf", "exact_match"),
    "multiple_choice": ("accuracy", "accuracy_norm", "ece", "brier"),
    "minimal_pairs": ("accuracy",),
    "language_modelling": ("loss", "perplexity"),
}
LABELLED = ("classification", "tagging")
OF_WRITTEN_CHOICES = ("normalised_match", "token_f1", "exact_match")
"""Metrics of answers that are listed and all the same written: "Yes." is yes."""


@dataclass(frozen=True)
class Gist:
    """What the rows of a task say of all its questions, where it stands without them."""

    stop: str
    """What a written answer ends before; "" where nothing but an end token ends one."""
    reads_images: bool


@dataclass(frozen=True)
class Task:
    """Examples in three splits, and how to ask, answer and score them; the first of `metrics` is the one that decides.

    `separator` stands between demonstrations; `ledger` accounts for the rows of all splits; `source` is where they
    came from. A split can be empty only where a task folder has no such file. Splits are tuples, or where their file is
    big sequences that read a row when it is asked for.
    """

    name: str
    kind: Kind | Literal["mixture"]
    template: Template
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    train: Sequence[Example]
    dev: Sequence[Example]
    test: Sequence[Example]
    ledger: Ledger
    separator: str
    max_new_tokens: int
    source: str
    replayed: tuple[Rehearsed, ...] = ()
    """Rows of other sources that are trained on too."""
    positive: str = ""
    """The label whose F1 the metric `f1` counts."""
    asked: tuple[str, ...] = ()
    """The columns that an example's `texts` come from."""
    chat: ChatTemplate | None = None
    """How its conversations are written."""
    mixture: Mixture | None = None
    """What it is made of, where it is several tasks in one: then those say how to ask, answer and score."""
    gist: Gist | None = None
    """Of a task without its rows."""

    @property
    def each(self) -> Mapping[str, Task]:
        """The tasks that its examples belong to, by the examples' `source`."""
        return self.mixture.sources if self.mixture else {"": self}

    @property
    def n_train(self) -> Mapping[str, int]:
        """The number of training rows of each of them."""
        return {name: len(each.train) for name, each in self.each.items()}

    def options(self, example: Example) -> tuple[str, ...]:
        """The answers among which one is chosen: of the labels or choices, in their order; () if they are written."""
        if self.kind == "generation":
            return ()
        return example.choices or tuple(map(self.template.option, self.labels))

    def option_names(self, example: Example) -> tuple[str, ...]:
        """What each of these answers is called: its label, or its letter; good and bad of a minimal pair."""
        if self.kind == "minimal_pairs":
            return GOOD, BAD
        return tuple(letter(number) for number in range(len(example.choices))) or self.labels

    @property
    def reads_images(self) -> bool:
        if self.gist is not None:
            return self.gist.reads_images
        return any(example.image for part in (self.train, self.dev, self.test) for example in part[:1])
