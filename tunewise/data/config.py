"""What a recipe says about its data."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_serializer, field_validator, model_validator

from tunewise.config import Strict, read_yaml
from tunewise.data.mixing import Mixing, normalised, proportional_rates
from tunewise.data.trained_on import TrainedOn
from tunewise.errors import UserError, missing

Pattern = Literal["none", "minimal", "question", "verbose"]
OF_A_SOURCE = (
    "folder", "splits", "rows", "group", "text", "label", "prompt", "completion", "rejected", "desirable", "answer",
    "messages", "system", "history", "tools", "tags", "pattern", "words", "choices", "minimal_pair", "metrics", "kind",
    "template", "roles", "trained_on", "answered",
)  # fmt: skip
"""Fields that say what the rows of one source are."""


class Replay(Strict):
    """Rows of another source among the training rows, against forgetting; of a task they make a mixture of tasks."""

    path: str
    """A file of texts, or any task; its training part is taken."""
    share: float = Field(0.05, gt=0, lt=1)
    """Of all training rows. Default: within the 1 to 25 % of Scialom et al. 2022, arXiv:2205.12393."""


COLUMNS = (
    "text", "label", "prompt", "completion", "messages", "rejected", "desirable", "system", "history", "tools", "tags",
    "choices", "group",
)  # fmt: skip
"""The fields that name a column, which `columns` may hold as well."""


class DataConfig(Strict):
    """Where the rows are and which columns mean what; what is left out is detected and told."""

    path: str
    """`tiny:sentiment` (embedded), `glue:rte` or `super_glue:boolq`, `hf:OWNER/NAME` or `hf:OWNER/NAME:CONFIG`, a
    folder with task.yaml, with train and test files or as `datasets` saves it, a file, two aligned ones (FILE,FILE), or
    a yaml file with the fields of `mixture`; of a mixture, what it is called."""
    mixture: MixtureConfig | None = None
    """Several sources that are trained on together."""
    folder: str | None = None
    """Where the rows of a `glue:` or `super_glue:` task lie; None takes them from the hub."""
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
    template: str | None = None
    """How chat messages are written: plain, chatml, alpaca, vicuna, or a .jinja file; None takes the tokenizer's own
    chat template, or plain where it has none. With one of them, or `own`, instructions and prompts are written as
    conversations of two turns."""
    roles: tuple[str, ...] = ("assistant",)
    """Whose turns of a conversation are trained. A list, or `assistant,tool`."""
    trained_on: TrainedOn = "answers"
    """What of a training row is trained: every answer, a conversation's last answer, or prompts as well."""
    answered: Literal["chosen", "written"] = "chosen"
    """Where the answers of a row are listed: the most probable of them is the answer, or what is written behind the
    prompt, as by a chat model."""
    rejected: str | None = None
    """The column with an answer that is worse than `completion`, as preference data has; kept, and not trained."""
    desirable: str | None = None
    """The column that says of each completion whether it is desirable, as unpaired preference data (KTO's) has it: rows
    where it is true are taken, the others are rejected."""
    system: str | None = None
    """The column with the system's text of a conversation."""
    tools: str | None = None
    """The column with the tools that the assistant may call."""
    history: str | None = None
    """The column with earlier turns of a conversation, as pairs of a question and its answer."""
    tags: str | None = None
    """The column with a list of tags, one for each word of the list in `text`."""
    pattern: Pattern = "none"
    """How a row is asked in words, in place of `prompt` and `answer`; none takes those, or the rows' own template."""
    words: dict[str, str] = Field(default_factory=dict)
    """What is written for a label, such as {entailment: yes}; the others are written as they are."""
    choices: str | None = None
    """The column with the list of a question's choices, or those with one each, as `A,B,C,D`; `label` tells which of
    them is right."""
    minimal_pair: str | None = None
    """The columns with an acceptable sentence and with one that is not, as `sentence_good,sentence_bad`."""
    metrics: tuple[str, ...] | None = None
    """What is measured, the first of them deciding; None takes those of the kind of task. A list, or `bleu,chrf`."""
    kind: Literal["classification", "regression"] | None = None
    """Whether numbers in the label column are classes or values; None tells it from the numbers."""
    train: int | None = Field(default=None, ge=1)
    """Take only so many training examples, all classes alike; None takes all."""
    dev: int | None = Field(default=None, ge=1)
    """Look at only so many dev examples, all classes alike; None at all of them."""
    test: int | None = Field(default=None, ge=1)
    """Measure on only so many test examples, all classes alike; None on all of them."""
    few_shot: int | None = Field(default=None, ge=1)
    """Train on only so many examples, as many of each class, drawn anew by each run's seed: those that `frozen` with
    as many shots shows."""
    rows: Literal["lines", "paragraphs", "file"] | None = None
    """What of a text file is one row; None takes paragraphs where blank lines part them, else lines."""
    splits: dict[Literal["train", "dev", "test"], str] = Field(default_factory=dict)
    """What the data calls its splits, such as {train: train_sft, test: test_sft}, where train, dev and test are not
    recognised; splits that are not named are not read."""
    group: str | None = None
    """The column whose rows of one value never fall into two splits, such as the author of a text."""
    split: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of train, dev and test where the file has no splits of its own."""
    seed: int = 0
    """Which rows fall into which split, and which are replayed."""
    replay: tuple[Replay, ...] = ()
    """Rows of other sources to be trained on beside its own: a path and a share, or a list of them."""

    def said(self, names: Collection[str] = ()) -> list[str]:
        """The fields, of these names or of any, that say something else than they do where nothing is said."""
        fields = type(self).model_fields
        return [
            name
            for name in names or fields
            if getattr(self, name) != fields[name].get_default(call_default_factory=True)
        ]

    def n_drawn(self, sizes: Mapping[str, int]) -> int:
        """How many rows an epoch has, by the number of training rows of each of these tasks."""
        return self.mixture.draws(sizes) if self.mixture else sum(sizes.values())

    @property
    def each(self) -> Mapping[str, DataConfig]:
        """The data of one task each: name of a source -> it, with what is the same for all; of other data itself."""
        if self.mixture is None:
            return {"": self}
        shared = {"split": self.split, "seed": self.seed}
        return {
            name: source.model_copy(update=shared | self._at_most(source))
            for name, source in self.mixture.sources.items()
        }

    def _at_most(self, source: DataConfig) -> dict[str, int | None]:
        """How many examples of each part are taken of one source: as it says, and no more than is said of all."""
        both = {"train": (self.train, source.train), "dev": (self.dev, source.dev), "test": (self.test, source.test)}
        return {part: min((n for n in limits if n is not None), default=None) for part, limits in both.items()}

    @model_validator(mode="before")
    @classmethod
    def _columns_together(cls, data: Any) -> Any:
        """`columns: {text: review}` is `text: review`."""
        if not isinstance(data, Mapping) or not isinstance(columns := data.get("columns"), Mapping):
            return data
        others = {name: value for name, value in data.items() if name != "columns"}
        for name in columns:
            if name not in COLUMNS:
                raise ValueError(f"columns.{name} names no column; known: {', '.join(COLUMNS)}")
            if name in others:
                raise ValueError(f"{name} and columns.{name} are the same field; keep one of them")
        return {**others, **columns}

    @model_validator(mode="before")
    @classmethod
    def _of_a_file(cls, data: Any) -> Any:
        """A yaml file is a mixture; what is said beside it counts more than what it says."""
        if not isinstance(data, Mapping):
            return data
        path, given = data.get("path"), data.get("mixture")
        if isinstance(path, str) and path.endswith((".yaml", ".yml")):
            if "sources" not in (content := read_yaml(path)):
                raise UserError(
                    f"{path} is no mixture: it names no sources",
                    "write sources: {NAME: PATH, ...}; of a task.yaml name its folder",
                )
            content = {**content, "sources": _found_beside(Path(path), content["sources"])}
            return {**data, "path": Path(path).stem, "mixture": _laid_over(content, given or {})}
        return {"path": "mixture", **data} if given and path is None else data

    @model_validator(mode="after")
    def _said_by_its_sources(self) -> Self:
        if self.mixture and (given := self.said(OF_A_SOURCE)):
            raise ValueError(f"{given[0]} is of one source; write mixture.sources.NAME.{given[0]}")
        return self

    @field_validator("replay", mode="before")
    @classmethod
    def _one_source(cls, value: Any) -> Any:
        if isinstance(value, str):
            return ({"path": value},)
        return (value,) if isinstance(value, Mapping) else value

    @field_validator("replay")
    @classmethod
    def _some_left(cls, replay: tuple[Replay, ...]) -> tuple[Replay, ...]:
        if sum(each.share for each in replay) >= 1:
            raise ValueError("shares that leave no row of the task itself; give less than 1 in all")
        return replay

    @field_validator("split")
    @classmethod
    def _shares(cls, split: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(split) <= 0 or abs(sum(split) - 1) > 1e-6:
            raise ValueError("should be three shares above 0 with the sum 1, such as [0.8, 0.1, 0.1]")
        return split

    @field_validator("words", mode="before")
    @classmethod
    def _read_as_text(cls, words: Any) -> Any:
        """YAML reads 0 and true as a number and a truth value; of a label there is one way to write those."""
        if not isinstance(words, Mapping):
            return words
        if truths := [word for word in words.values() if isinstance(word, bool)]:
            raise ValueError(f"{truths[0]} is no text; write it in quotes, such as words: {{entailment: 'True'}}")
        labels = (str(label).lower() if isinstance(label, bool) else str(label) for label in words)
        return dict(zip(labels, (str(word) for word in words.values()), strict=True))

    @model_validator(mode="after")
    def _one_way_to_ask(self) -> Self:
        if self.pattern != "none" and (self.answer or "{" in (self.prompt or "")):
            given = "answer" if self.answer else "prompt"
            raise ValueError(f"pattern={self.pattern} and the template of {given} both say how to ask; keep one")
        return self

    @field_validator("metrics", "roles", mode="before")
    @classmethod
    def _listed(cls, names: Any) -> Any:
        """`bleu,chrf` as columns are listed."""
        return [name.strip() for name in names.split(",")] if isinstance(names, str) else names

    @model_validator(mode="after")
    def _one_shape(self) -> Self:
        chosen = [
            name
            for name, value in (
                ("label", self.label),
                ("completion", self.completion),
                ("messages", self.messages),
                ("tags", self.tags),
                ("minimal_pair", self.minimal_pair),
            )
            if value
        ]
        if len(chosen) > 1:
            raise ValueError(f"{' and '.join(chosen)} are columns of different shapes; name one of them")
        if self.choices and (other := next((name for name in chosen if name != "label"), None)):
            raise ValueError(f"choices and {other} are columns of different shapes; name one of them")
        if self.minimal_pair and len(self.minimal_pair.split(",")) != 2:
            raise ValueError("minimal_pair should be two columns, such as sentence_good,sentence_bad")
        if self.metrics is not None and not self.metrics:
            raise ValueError("metrics should name one or more, such as [accuracy]")
        if self.text and self.prompt and "{" not in self.prompt:
            raise ValueError("text and prompt both name the column that is asked; name one of them")
        return self


class SourceConfig(DataConfig):
    """One source of a mixture: anything that is data by itself. Its splits and seed are those of the mixture."""

    weight: float | None = Field(None, gt=0)
    """Of `mixing: weights`: its share of all draws is this over the sum of all weights."""

    @model_validator(mode="after")
    def _one_source_alone(self) -> Self:
        if self.mixture is not None:
            raise ValueError("a source cannot be a mixture itself; name what that is made of")
        for name in self.said(("few_shot", "replay", "split", "seed")):
            raise ValueError(f"{name} is the same for all sources; write data.{name}")
        return self


class MixtureConfig(Strict):
    """Several sources, and how often each is drawn; each is asked, and scored on dev and test, as its own task."""

    sources: dict[str, SourceConfig]
    """Name -> what `data` may be; a bare string is its path."""
    mixing: Mixing = "proportional"
    """How often each is drawn: by its rows, all alike, or by `weight`."""
    cap: int = Field(3_000, gt=0)
    """Rows beyond which none counts more, as in FLAN; an epoch has as many draws as the sources have rows up to it."""
    temperature: float = Field(1.0, ge=1)
    """Of `proportional`: the higher it is, the more alike the sources are, as in T5."""

    @field_validator("sources", mode="before")
    @classmethod
    def _paths(cls, sources: Any) -> Any:
        if not isinstance(sources, Mapping):
            return sources
        return {str(name): {"path": each} if isinstance(each, str) else each for name, each in sources.items()}

    @field_validator("sources")
    @classmethod
    def _named(cls, sources: dict[str, SourceConfig]) -> dict[str, SourceConfig]:
        if not sources:
            raise ValueError("no source; write lines of the form  name: path")
        wrong = next((name for name in sources if not re.fullmatch(r"[\w-]+", name)), None)
        if wrong is not None:
            raise ValueError(f"{wrong!r} is to be part of a metric's name: use letters, digits, - and _")
        return sources

    @field_serializer("sources")
    def _as_given(self, sources: dict[str, SourceConfig]) -> dict[str, dict[str, Any]]:
        """Without what is not said of a source: a recipe with dozens of them stays readable."""
        return {name: each.model_dump(mode="json", exclude_defaults=True) for name, each in sources.items()}

    @model_validator(mode="after")
    def _weighed(self) -> Self:
        weighed = {name: each.weight is not None for name, each in self.sources.items()}
        if self.mixing == "weights" and not all(weighed.values()):
            lacking = next(name for name, there in weighed.items() if not there)
            raise ValueError(f"{lacking} has no weight; write sources.{lacking}.weight, or leave mixing out")
        if self.mixing != "weights" and any(weighed.values()):
            raise ValueError(f"weights have no effect with mixing={self.mixing}; write mixing: weights")
        if self.mixing != "proportional" and self.temperature != 1:
            raise ValueError(f"temperature has no effect with mixing={self.mixing}; leave it out")
        return self

    def rates(self, sizes: Mapping[str, int]) -> list[float]:
        """The mixing rate of each source, of which so many rows can be trained on."""
        if self.mixing == "proportional":
            return proportional_rates(list(sizes.values()), self.cap, self.temperature)
        return normalised([self.sources[name].weight or 1.0 for name in sizes])

    def draws(self, sizes: Mapping[str, int]) -> int:
        """How many rows an epoch draws."""
        return sum(min(size, self.cap) for size in sizes.values())


def _found_beside(file: Path, sources: Any) -> Any:
    """The sources of a yaml file, with the files they name as they are found from here.

    A path counts from the folder of the yaml file, or else from the working directory; UserError where it is in
    neither. Names with a colon (tiny:, glue:, hf:) are no paths.
    """
    if not isinstance(sources, Mapping):
        return sources

    def found(path: str, of: str) -> str:
        if (file.parent / path).exists():
            return str(file.parent / path)
        if ":" in path or Path(path).exists():
            return path
        if "," in path:
            return ",".join(found(part.strip(), of) for part in path.split(","))
        raise UserError(
            f"source {of} of {file}: {path} is neither in {file.parent.resolve()} nor in {Path.cwd()}",
            missing(path).hint or "write where it lies, from the folder of the yaml file or from the working directory",
        )

    def each(name: str, source: Any) -> Any:
        if isinstance(source, str):
            return found(source, name)
        if not isinstance(source, Mapping):
            return source
        named = {key: value for key in ("path", "folder", "template") if isinstance(value := source.get(key), str)}
        if not named.get("template", "").endswith(".jinja"):  # which is the name of one
            named.pop("template", None)
        return {**source, **{key: found(value, name) for key, value in named.items()}}

    return {name: each(name, source) for name, source in sources.items()}


def _laid_over(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Both, inside their mappings too; `over` wins."""
    both = dict(under)
    for name, value in over.items():
        below = both.get(name)
        if isinstance(below, str) and isinstance(value, Mapping):
            below = {"path": below}  # a source by its path alone
        both[name] = _laid_over(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return both


DataConfig.model_rebuild()
