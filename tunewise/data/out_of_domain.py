"""A test set from elsewhere: its rows are asked as a task asks its own, and told by classes that may be coarser.

Nothing of it is ever trained on, shown as a demonstration, or used to choose a state: McCoy et al. 2019,
arXiv:1902.01007 (HANS), who count `neutral` and `contradiction` as its `non-entailment`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, field_validator, model_validator

from tunewise.config import parse, read_yaml
from tunewise.data.build import build, check_labels, ids_of
from tunewise.data.chat_template import chat_template
from tunewise.data.config import DataConfig
from tunewise.data.conversations import Conversations
from tunewise.data.described import TaskFile
from tunewise.data.detect import detect
from tunewise.data.examples import Example, Ledger, Note, Part
from tunewise.data.found import find
from tunewise.data.hub import is_saved
from tunewise.data.images import is_image_folder, read_images
from tunewise.data.instruct.reading import OPTIONS
from tunewise.data.leaks import find_leaks, find_leaks_between
from tunewise.data.load import load_task
from tunewise.data.readers import Row, columns
from tunewise.data.shapes import Shape, is_template
from tunewise.data.sources import files_of, open_source, read_file
from tunewise.data.task import Task
from tunewise.data.template import Template
from tunewise.errors import UserError, unknown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OF_THE_TASK = ("pattern", "words", "template", "roles", "metrics", "kind", "group", "answered")
"""Fields that say how rows are asked, scored and split: beside one task those of the task count."""


class OutOfDomainConfig(DataConfig):
    """Where the rows are: a folder with a test file, or one file, of which every row is asked."""

    labels: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """A label of this set -> the classes of the task that count as it; classes of the same name need no word."""

    @field_validator("labels", mode="before")
    @classmethod
    def _classes_with_commas(cls, labels: Any) -> Any:
        if not isinstance(labels, Mapping):
            return labels
        return {_written(label): _listed(classes) for label, classes in labels.items()}

    @model_validator(mode="after")
    def _only_asked(self) -> Self:
        given = self.said(("train", "few_shot", "trained_on", "replay"))
        if given:
            raise ValueError(f"nothing is trained on an out-of-domain set; leave {' and '.join(given)} out")
        if self.answer or is_template(self.prompt):
            raise ValueError("its rows are asked by the template of the task; name columns alone")
        twice = [name for name, n in Counter(name for of in self.labels.values() for name in of).items() if n > 1]
        if twice:
            raise ValueError(f"the class {twice[0]} counts as two labels; name it once")
        return self


def _listed(classes: Any) -> list[str]:
    if isinstance(classes, str):
        return [name.strip() for name in classes.split(",")]
    return [_written(name) for name in (classes if isinstance(classes, list | tuple) else [classes])]


def _written(label: Any) -> str:
    """A label as the rows of a file have it: 1 and true stand there as JSON writes them."""
    return label if isinstance(label, str) else json.dumps(label)


@dataclass(frozen=True)
class OutOfDomain:
    """The rows as the test part of the task itself: its template, its classes, its training rows to show."""

    name: str
    task: Task
    expected: tuple[str, ...]
    """The set's own label of each row; () where both have the same classes."""
    counts_as: Mapping[str, str]
    """A class of the task -> the label of this set as which it counts; {} where both have the same classes."""
    ledger: Ledger


def load_out_of_domain(
    name: str, config: OutOfDomainConfig, task: Task, tokenizer: PreTrainedTokenizerBase | None = None
) -> OutOfDomain:
    """The set `name`, whose rows fill the template of `task`: by the names of the columns, or else in their order.

    A mixture has no template: beside it the set is asked and scored as a task of its own, one that is held out.
    UserError for rows of another kind, for columns that do not fit, and for labels that are none of the task's and
    have no classes in `config.labels`.
    """
    if config.mixture is not None:
        raise UserError(f"{name}: {config.path} is a mixture", "name each of its sources as a set of its own")
    path = find(config.path)
    if task.mixture is not None:
        return _by_itself(name, path, config, task, tokenizer)
    if said := config.said(OF_THE_TASK):
        lost = said[0]
        raise UserError(
            f"{name}: its rows are asked and scored as those of {task.name}; {lost} cannot change that",
            f"leave out_of_domain.{name}.{lost} out",
        )
    if task.reads_images:
        if not (path.is_dir() and is_image_folder(path)):
            raise UserError(f"{name}: {config.path} holds no images, and {task.name} does", "name a folder of images")
        parts = read_images(path)
        examples, rejected = parts.get("test", parts.get("", [])), list[Note]()
    else:
        examples, rejected = _from_rows(name, path, config, task, tokenizer)
    if not examples:
        first = f": line {rejected[0].line}: {rejected[0].reason}" if rejected else ""
        raise UserError(f"{name}: no row of {config.path} can be asked{first}", "correct its rows, or name its columns")
    if task.kind == "tagging":
        check_labels(examples, task.labels, config.path)
    counts_as = _counted(name, config, examples, task) if task.kind == "classification" else {}
    expected = tuple(str(example.label) for example in examples) if counts_as else ()
    if task.kind == "classification" and not task.reads_images:
        answered = {label: chosen for chosen, label in reversed(counts_as.items())}
        examples = [_answered(each, answered.get(str(each.label), str(each.label)), task) for each in examples]
    sizes = f"{config.path}: {len(examples)} rows, asked out of domain as {name}"
    return OutOfDomain(
        name=name,
        task=replace(task, name=name, dev=(), test=tuple(examples), source=config.path),
        expected=expected,
        counts_as=counts_as,
        ledger=Ledger(
            rows=len(examples) + len(rejected),
            trained=0,
            rejected=tuple(rejected),
            leaks=find_leaks(task.train, examples, name),
            detected=sizes,
        ),
    )


def _by_itself(
    name: str, path: Path, config: OutOfDomainConfig, task: Task, tokenizer: PreTrainedTokenizerBase | None
) -> OutOfDomain:
    """The test part of a task that the mixture is not trained on: all rows of one file, or those of a folder's test."""
    if config.labels:
        raise UserError(
            f"{name}: beside a mixture {config.path} is a task of its own, with its own labels", "leave labels out"
        )
    if path.is_dir() and not (config.splits or (path / "task.yaml").is_file() or is_saved(path)):
        tests = files_of(path, ("test",), "test")
        if len(tests) == 1 and not files_of(path, ("train",), "train"):  # as `data build` writes what is held out
            path, config = tests[0], config.model_copy(update={"path": str(tests[0])})
    own = load_task(config, tokenizer, all_asked=path.is_file())
    train, examples = own.train, own.test
    if not examples:
        raise UserError(f"{name}: {config.path} has no test rows", "add a test file to its folder, or name one file")
    return OutOfDomain(
        name=name,
        task=replace(own, name=name, train=train, dev=(), test=examples, source=config.path),
        expected=(),
        counts_as={},
        ledger=replace(
            own.ledger,
            trained=0,
            leaks=find_leaks_between({each: of.train for each, of in task.each.items()}, {("", name): examples}),
            detected=f"{own.ledger.detected}; {len(examples)} rows, asked out of domain as {name}",
        ),
    )


def _answered(example: Example, chosen: str, task: Task) -> Example:
    """The same row, answered by a class of the task."""
    answer = Part(task.template.option(chosen), True)
    return replace(example, label=chosen, parts=(*example.parts[:-1], answer))


def _from_rows(
    name: str, path: Path, config: OutOfDomainConfig, task: Task, tokenizer: PreTrainedTokenizerBase | None
) -> tuple[list[Example], list[Note]]:
    stem, rows = _test_rows(name, path, config)
    shape = _shape(path, rows, config, task)
    is_set = shape.name == "prompt and completion" and any(OPTIONS in row.fields for row in rows)
    if is_set and task.kind == "multiple_choice" and not all(row.fields.get(OPTIONS) for row in rows):
        raise UserError(f"{name}: {config.path} has rows without options", "name a set whose answers can be chosen")
    if shape.kind != task.kind and not (is_set and task.kind == "multiple_choice"):
        kinds = [kind.replace("_", " ") for kind in (shape.kind, task.kind)]
        raise UserError(f"{name}: {config.path} is {kinds[0]}, and {task.name} is {kinds[1]}", "name another set")
    if shape.talk:  # which no template of the task's changes
        chat = Conversations(task.chat or chat_template(None, tokenizer))
        return build(rows, shape, task.template, ids_of(rows, stem), chat)
    slots = [slot for slot in task.template.fields() if slot != "label"]
    wanted = list(dict.fromkeys([*task.asked, *slots]))
    named = bool(config.text or config.prompt)
    if named or not set(wanted) <= set(columns(rows)):
        rows, shape = _renamed(name, rows, shape, config, task)
        lacking = next((slot for slot in slots if slot not in columns(rows)), None)
        if lacking is not None:
            raise UserError(
                f"{name}: no column of {config.path} fills {{{lacking}}} of the task's template",
                f"its columns are {', '.join(columns(rows))}; rename one of them",
            )
    else:
        shape = replace(shape, asked=task.asked or shape.asked)
    chat = Conversations(task.chat) if task.chat else None
    return build(rows, shape, task.template, ids_of(rows, stem), chat)


def _test_rows(name: str, path: Path, config: OutOfDomainConfig) -> tuple[str, list[Row]]:
    """Rows of the one file, of the folder's file of test rows, or of the test split of a data set, and their name."""
    if path.is_dir() and not is_saved(path):
        files = files_of(path, ("test",), "test")
        if not files:
            raise UserError(f"{name}: {path} has no test file (test.csv, test.jsonl)", "name one file instead")
        return f"{name}-test", [row for file in files for row in read_file(file)]
    tables = open_source(config).tables
    rows = [row for table in tables if table.part in ("", "test") for row in table.rows]
    if not rows:
        raise UserError(f"{name}: {config.path} has no test split", f"say which it is: out_of_domain.{name}.splits")
    return path.stem if path.is_file() else f"{name}-test", rows


def _shape(path: Path, rows: Sequence[Row], config: OutOfDomainConfig, task: Task) -> Shape:
    if path.is_dir() and (path / "task.yaml").is_file():
        said = parse(TaskFile, read_yaml(path / "task.yaml"), where=str(path / "task.yaml"))
        asked = Template(said.prompt, "").fields()
        if said.kind in ("classification", "regression"):
            return Shape("text and label" if said.kind == "classification" else "text and value", asked, "label")
        answered = next(iter(Template("", said.answer).fields()), "")
        if said.kind == "language_modelling":
            return Shape("text", (answered,))
        return Shape("words and tags" if said.kind == "tagging" else "prompt and completion", asked, answered)
    labelled = task.kind if task.kind in ("classification", "regression") else None
    return detect(rows, config.model_copy(update={"kind": labelled}))


def _renamed(
    name: str, rows: list[Row], shape: Shape, config: OutOfDomainConfig, task: Task
) -> tuple[list[Row], Shape]:
    """The rows with the names that the task has for their columns, in the order in which both name them."""
    asked = task.asked or Template(task.template.prompt, "").fields()
    if len(shape.asked) != len(asked):
        raise UserError(
            f"{name}: {config.path} is asked by {', '.join(shape.asked)}, and {task.name} by {', '.join(asked)}",
            f"name its columns in that order: out_of_domain.{name}.text=COLUMN,COLUMN",
        )
    names = dict(zip(shape.asked, asked, strict=True))
    answered = shape.answered
    if task.kind == "generation":
        answered = next(iter(Template("", task.template.answer).fields()), answered)
        names[shape.answered] = answered
    kept = [{key: value for key, value in row.fields.items() if key not in names} for row in rows]
    moved = [{names[key]: value for key, value in row.fields.items() if key in names} for row in rows]
    found = [Row(row.line, one | other) for row, one, other in zip(rows, kept, moved, strict=True)]
    return found, replace(shape, asked=tuple(asked), answered=answered)


def _counted(name: str, config: OutOfDomainConfig, examples: Sequence[Example], task: Task) -> dict[str, str]:
    """A class of the task -> the label of this set that it counts as; {} where each class is its own label."""
    own = list(dict.fromkeys(str(example.label) for example in examples))
    for label, classes in config.labels.items():
        if label not in own:
            raise unknown(f"label of {name}", label, own)
        for chosen in classes:
            if chosen not in task.labels:
                raise unknown(f"class of {task.name}", chosen, task.labels)
    counts_as = {chosen: label for label, classes in config.labels.items() for chosen in classes}
    for label in own:
        if label in config.labels:
            continue
        if label not in task.labels or label in counts_as:
            raise UserError(
                f"{name}: the label {label!r} is none of the task's: {', '.join(task.labels)}",
                f"say which of those count as it: out_of_domain.{name}.labels.{label}=CLASS,CLASS",
            )
        counts_as[label] = label
    return {} if all(chosen == label for chosen, label in counts_as.items()) else counts_as
