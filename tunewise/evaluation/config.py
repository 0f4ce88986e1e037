"""How answers are written and forgetting is measured: `generation:`, `retention:` and `dial:` of a recipe."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, model_validator

from tunewise.config import Strict
from tunewise.data.config import DataConfig
from tunewise.engine.decoding import Sampling

HARNESS = "harness:"


class GenerationConfig(Strict):
    """Of tasks whose answers are generated; the fields are named, and mean the same, as in transformers'."""

    do_sample: bool = False
    """Draw tokens at random, by the run's seed; else the most probable one is taken."""
    temperature: float = Field(1.0, gt=0)
    """What logits are divided by."""
    top_k: int | None = Field(None, gt=0)
    """Only so many of the most probable tokens; None takes all."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Of those only the most probable ones that together hold so much."""

    @model_validator(mode="after")
    def _of_effect(self) -> Self:
        given = {name: value for name, value in self.model_dump(exclude_defaults=True).items() if name != "do_sample"}
        if given and not self.do_sample:
            told = ", ".join(f"{name}={value}" for name, value in given.items())
            raise ValueError(f"{told} has no effect without do_sample=true")
        return self

    def sampling(self, seed: int) -> Sampling | None:
        """How tokens are drawn by a run of this seed; None where none are."""
        return Sampling(self.temperature, self.top_p, seed, self.top_k) if self.do_sample else None


class DialConfig(Strict):
    """The way from base to tuned model, measured after the training."""

    points: int = Field(0, ge=0)
    """How many λ from 0 to 1 are measured; 0 measures none."""
    keep: float = Field(0.95, gt=0, le=1)
    """The share of the best gain on dev that a λ must keep to be taken."""

    @model_validator(mode="after")
    def _both_ends(self) -> Self:
        if self.points == 1:
            raise ValueError("1 point shows neither end: 2 or more, such as 11, or 0")
        return self


class RetentionTask(Strict):
    """One look at what a base knew before: a text file, or a task with the same head; a bare string is its path."""

    data: DataConfig
    """A task, of which the test part is read: of texts the loss, of any other its main metric."""
    shots: int = Field(0, ge=0)
    """Demonstrations before every question, of its own training rows; always the same ones."""
    rows: int | None = Field(None, ge=1)
    """Only so many of its first test rows; None takes 50 questions, or all texts."""

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        opened = {"data": value} if isinstance(value, str) else value
        if isinstance(opened, Mapping) and isinstance(opened.get("data"), str):
            return {**opened, "data": {"path": opened["data"]}}
        return opened

    @model_validator(mode="after")
    def _one_task(self) -> Self:
        if self.data.mixture is not None:
            raise ValueError(f"{self.data.path} is a mixture; list its sources, each as a task")
        return self

    @property
    def of_harness(self) -> str:
        """The task of lm-evaluation-harness, where it is one."""
        return self.data.path.removeprefix(HARNESS) if self.data.path.startswith(HARNESS) else ""

    @property
    def name(self) -> str:
        """What it is called in results: its path, and how many demonstrations."""
        return f"{self.data.path}, {self.shots} shots" if self.shots else self.data.path
