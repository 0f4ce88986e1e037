"""What a recipe says about its data."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from tunewise.config import Strict


class DataConfig(Strict):
    """Where the rows are and which columns mean what; what is left out is detected and told."""

    path: str
    """`tiny:sentiment` (embedded), a folder with task.yaml or with train and test files, or one file."""
    text: str | None = None
    """The column with the text; two columns as `premise,hypothesis`."""
    label: str | None = None
    """The column with the class."""
    prompt: str | None = None
    """The column with the prompt, or a template such as `{question}\\nAnswer:` with columns in braces."""
    completion: str | None = None
    """The column with the answer to be trained."""
    answer: str | None = None
    """The template of the answer, such as ` {label}`."""
    messages: str | None = None
    """The column with a list of chat messages."""
    tags: str | None = None
    """The column with a list of tags, one for each word of the list in `text`."""
    kind: Literal["classification", "regression"] | None = None
    """Whether numbers in the label column are classes or values; None tells it from the numbers."""
    train: int | None = Field(default=None, ge=1)
    """Take only so many training examples, all classes alike; None takes all."""
    few_shot: int | None = Field(default=None, ge=1)
    """Train on only so many examples, as many of each class, drawn anew by each run's seed: those that `frozen` with
    as many shots shows."""
    split: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of train, dev and test where the file has no splits of its own."""
    seed: int = 0
    """Which rows fall into which split."""

    @field_validator("split")
    @classmethod
    def _shares(cls, split: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(split) <= 0 or abs(sum(split) - 1) > 1e-6:
            raise ValueError("should be three shares above 0 with the sum 1, such as [0.8, 0.1, 0.1]")
        return split

    @model_validator(mode="after")
    def _one_shape(self) -> Self:
        chosen = [
            name
            for name, value in (
                ("label", self.label),
                ("completion", self.completion),
                ("messages", self.messages),
                ("tags", self.tags),
            )
            if value
        ]
        if len(chosen) > 1:
            raise ValueError(f"{' and '.join(chosen)} are columns of different shapes; name one of them")
        if self.text and self.prompt and "{" not in self.prompt:
            raise ValueError("text and prompt both name the column that is asked; name one of them")
        return self
