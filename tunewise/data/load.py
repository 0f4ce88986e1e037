"""Loading a task: an embedded one, a benchmark, a folder, a file, a data set, or several of these in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tunewise.config import parse, read_yaml
from tunewise.data.benchmarks import DEV_ROWS, benchmark_named, benchmark_rows, is_benchmark
from tunewise.data.big import is_big, read_big
from tunewise.data.build import RESULT, build, check_labels, ids_of, labels_of
from tunewise.data.config import DataConfig, MixtureConfig
from tunewise.data.described import TaskFile, shape_of
from tunewise.data.examples import Example, Ledger, Note
from tunewise.data.found import find
from tunewise.data.images import is_image_folder, read_images
from tunewise.data.instruct.reading import kind_of
from tunewise.data.leaks import find_leaks, find_leaks_between
from tunewise.data.mixture import mixture_of
from tunewise.data.patterns import asked_by
from tunewise.data.readers import read_rows
from tunewise.data.replay import Rehearsed, drawn, n_replayed
from tunewise.data.rows_read import completed, read_whole
from tunewise.data.shapes import Kind, sentence
from tunewise.data.sources import name_of
from tunewise.data.streamed import Streamed, frozen, some_of, witnesses_of
from tunewise.data.task import LABELLED, METRICS, OF_WRITTEN_CHOICES, Task
from tunewise.data.template import Template
from tunewise.data.trained_on import trained_on
from tunewise.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COLUMNS = tuple(
    "text label prompt completion answer messages template rejected desirable system tools history tags choices "
    "minimal_pair group".split()
)
OF_ROWS = ("rows", "splits", "roles", "kind")
"""Fields beside the columns that only files of rows and data sets have a use for."""


def load_task(
    spec: str | Path | DataConfig, tokenizer: PreTrainedTokenizerBase | None = None, *, all_asked: bool = False
) -> Task:
    """The task that `spec` names: "tiny:sentiment" (embedded), "glue:rte", "hf:OWNER/NAME", a folder or a file.

    With `all_asked` all rows of a file are its test part. The tokenizer is needed only for chat messages, and only if
    they are to be written in its own chat template.
    UserError for whatever is wrong with the data; what was recognised is told in `task.ledger.detected`.
    """
    config = spec if isinstance(spec, DataConfig) else DataConfig(path=str(spec))
    if config.mixture is not None:
        return _with_replay(_mixed(config, config.mixture, tokenizer), config, tokenizer)
    task = _limited(_from_rows(config, tokenizer, all_asked) if all_asked else _read(config, tokenizer), config)
    task = _marked(_written(task, config), config)
    if "f1" in task.metrics and task.positive not in task.labels:
        raise UserError(
            f"{config.path}: the metric f1 counts one label, and positive is {task.positive!r}",
            f"take macro_f1, or a task.yaml with positive: {' or '.join(task.labels) or 'LABEL'}",
        )
    return _with_replay(task, config, tokenizer)


def _mixed(config: DataConfig, mixed: MixtureConfig, tokenizer: PreTrainedTokenizerBase | None) -> Task:
    tasks: dict[str, Task] = {}
    for name, source in config.each.items():
        try:
            tasks[name] = load_task(source, tokenizer)
        except UserError as error:
            raise UserError(f"source {name}: {error.message}", error.hint) from None
    return mixture_of(config, mixed, tasks)


def _read(config: DataConfig, tokenizer: PreTrainedTokenizerBase | None) -> Task:
    if is_benchmark(config.path):
        return _from_benchmark(config)
    if config.folder is not None:
        raise UserError(f"data.folder changes nothing: {config.path} is no glue: or super_glue: task", "leave it out")
    path = find(config.path)
    if (path / "task.yaml").is_file():
        return _from_task_folder(path, config)
    if path.is_dir() and is_image_folder(path):
        return _from_images(path, config)
    return _from_rows(config, tokenizer)


def _from_benchmark(config: DataConfig) -> Task:
    benchmark, name = benchmark_named(config.path), config.path
    _keeps_its_columns(config, f"{name} is a benchmark")
    parts: dict[str, list[Example]] = {}
    rejected: list[Note] = []
    found = benchmark_rows(name, config.folder)
    for part, rows in found.items():
        parts[part], notes = build(rows, benchmark.shape, benchmark.template, ids_of(rows, f"{name}-{part}"))
        rejected += [replace(note, reason=f"{part}: {note.reason}") for note in notes]
        _some(parts[part], notes, f"{name}, {part}")
    n, (train, dev, _) = len(parts["train"]), config.split
    dev = min(dev / (train + dev), DEV_ROWS / n)
    parts = completed(parts, config.model_copy(update={"split": (1 - dev, dev, 0.0)}))
    template, asked = asked_by(config, benchmark.shape, benchmark.template, benchmark.labels, parts)
    kind = benchmark.kind.replace("_", " ")
    told = f"{name}: {kind} as the benchmark says{_asked_as(config, template)}"
    told += f"; {benchmark.test} serves as test, a part of train as dev"
    return Task(
        name=name,
        kind=benchmark.kind,
        template=template,
        labels=benchmark.labels,
        metrics=config.metrics or benchmark.metrics,
        train=tuple(asked["train"]),
        dev=tuple(asked["dev"]),
        test=tuple(asked["test"]),
        ledger=_ledger(parts, rejected, told, _n_rows(found)),
        separator="\n\n",
        max_new_tokens=16,
        source=name,
        positive=benchmark.positive,
    )


def _keeps_its_columns(config: DataConfig, why: str) -> None:
    for name in config.said((*COLUMNS, *OF_ROWS)):
        raise UserError(
            f"{why}, which says what its columns mean; data.{name} cannot change that",
            f"leave data.{name} out, or name a file of rows instead",
        )


def _from_task_folder(folder: Path, config: DataConfig) -> Task:
    _keeps_its_columns(config, f"{folder.name} has a task.yaml")
    file = parse(TaskFile, read_yaml(folder / "task.yaml"), where=str(folder / "task.yaml"))
    template = Template(file.prompt, file.answer)
    files = {part: folder / f"{part}.jsonl" for part in ("train", "dev", "test")}
    rows = {part: read_rows(path) for part, path in files.items() if path.is_file()}
    shape = shape_of(file, rows, str(folder))
    built: dict[str, list[Example]] = {part: [] for part in files}
    rejected: list[Note] = []
    for part, found in rows.items():
        built[part], notes = build(found, shape, template, ids_of(found, f"{file.name}-{part}"))
        rejected += notes
    examples = [example for part in built.values() for example in part]
    _some(examples, rejected, str(folder))
    labels = file.labels
    if file.kind in LABELLED:
        labels = labels or labels_of(examples, str(folder))
        check_labels(examples, labels, str(folder))
    template, parts = asked_by(config, shape, template, labels, built)
    told = f"{config.path}: {file.kind.replace('_', ' ')} as its task.yaml says{_asked_as(config, template)}"
    return Task(
        name=file.name,
        kind=file.kind,
        template=template,
        labels=labels,
        metrics=config.metrics or file.metrics or _metrics(file.kind, labels, examples),
        train=tuple(parts["train"]),
        dev=tuple(parts["dev"]),
        test=tuple(parts["test"]),
        ledger=_ledger(parts, rejected, told, _n_rows(rows)),
        separator=file.separator,
        max_new_tokens=file.max_new_tokens,
        source=config.path,
        positive=file.positive,
        asked=shape.asked,
    )


def _from_rows(config: DataConfig, tokenizer: PreTrainedTokenizerBase | None, all_asked: bool = False) -> Task:
    read = read_big(config, tokenizer) if is_big(config) else read_whole(config, tokenizer)
    config, shape, examples = read.config, read.shape, read.witnesses
    _some(examples, read.rejected, config.path)
    labels = labels_of(examples, config.path) if shape.kind in LABELLED else ()
    # after the split, which goes by the texts of prompts: however rows are asked, they fall into the same parts
    template, parts = asked_by(config, shape, read.template, labels, read.asked_alone() if all_asked else read.parts())
    kind = kind_of(shape, parts["dev"], parts["test"])
    asked = [*witnesses_of(parts["dev"]), *witnesses_of(parts["test"])] or examples
    told = sentence(shape, template, config, read.known) + read.place + _label_list(labels)
    chosen = kind != shape.kind and config.answered == "chosen"
    told += ("; the answer of a row is chosen among its options" if chosen else "") + read.told
    return Task(
        name=name_of(config.path),
        kind=kind,
        template=template,
        labels=labels,
        metrics=config.metrics or _metrics(kind, labels, asked),
        train=frozen(parts["train"]),
        dev=frozen(parts["dev"]),
        test=frozen(parts["test"]),
        ledger=_ledger(parts, read.rejected, told, read.n_rows),
        separator="\n\n",
        # half as many tokens as the longest answer has characters are enough for any but the smallest vocabularies
        max_new_tokens=min(256, max(16, max(len(example.answer) for example in examples) // 2)),
        source=config.path,
        asked=shape.asked,
        chat=read.chat,
    )


def _from_images(folder: Path, config: DataConfig) -> Task:
    for name in config.said((*COLUMNS, *OF_ROWS)):
        raise UserError(f"{config.path} holds images, which have no columns", f"leave data.{name} out")
    for name in config.said(("pattern", "words", "trained_on")):
        raise UserError(f"{config.path} holds images, which are not asked in words", f"leave data.{name} out")
    parts = read_images(folder)
    labels = labels_of([example for part in parts.values() for example in part], config.path)
    n_rows = _n_rows(parts)
    parts = completed(parts, config)
    told = f"{config.path}: images in a folder for each class" + _label_list(labels)
    return Task(
        name=folder.resolve().name,
        kind="classification",
        template=Template("", " {label}"),
        labels=labels,
        metrics=config.metrics or METRICS["classification"],
        train=tuple(parts["train"]),
        dev=tuple(parts["dev"]),
        test=tuple(parts["test"]),
        ledger=_ledger(parts, [], told, n_rows),
        separator="",
        max_new_tokens=16,
        source=config.path,
    )


def _metrics(kind: Kind, labels: Sequence[str], examples: Sequence[Example]) -> tuple[str, ...]:
    """The kind's own, but where the answers of these examples, those that are scored, say more of what is asked.

    Tags that mark no spans (parts of speech) are counted one by one, questions with accepted answers by SQuAD's two
    metrics, and arithmetic with the result behind #### (gsm8k) by that number.
    """
    if kind == "tagging" and not any(label.startswith("B-") for label in labels):
        return ("token_accuracy",)
    if kind == "generation" and all(example.accepted for example in examples):
        return ("token_f1", "normalised_match")
    if kind == "generation" and all(RESULT.search(example.answer) for example in examples):
        return ("numeric_match", *METRICS[kind])
    return METRICS[kind]


def _limited(task: Task, config: DataConfig) -> Task:
    """With only so many examples of each part as the configuration wants of it."""
    parts = {"training": (task.train, config.train), "dev": (task.dev, config.dev), "test": (task.test, config.test)}
    told, taken = task.ledger.detected, {}
    for name, (examples, n) in parts.items():
        taken[name] = some_of(examples, n, config.seed)
        if len(taken[name]) < len(examples):
            told += f"; {len(taken[name])} of {len(examples)} {name} examples taken"
    ledger = replace(task.ledger, detected=told)
    return replace(task, train=taken["training"], dev=taken["dev"], test=taken["test"], ledger=ledger)


def _marked(task: Task, config: DataConfig) -> Task:
    if isinstance(task.train, Streamed):  # whose rows are trained on their answers, as `is_big` sees to
        return task
    train = trained_on(task.train, config.trained_on)
    if config.trained_on == "answers":
        return replace(task, train=train, ledger=replace(task.ledger, more=len(train) - len(task.train)))
    told = f"{task.ledger.detected}; of training rows {config.trained_on.replace('_', ' ')} is trained"
    return replace(task, train=train, ledger=replace(task.ledger, detected=told))


def _written(task: Task, config: DataConfig) -> Task:
    """The task as one of generation, if its answers are to be written although they are listed."""
    if config.answered == "chosen":
        return task
    if task.kind != "multiple_choice":
        raise UserError(
            f"data.answered=written changes nothing: the answers of {config.path} are not chosen among options",
            "leave it out, or make a set with options: tunewise data build",
        )
    told = f"{task.ledger.detected}; its answers are written, not chosen"
    metrics = config.metrics or OF_WRITTEN_CHOICES
    return replace(task, kind="generation", metrics=metrics, ledger=replace(task.ledger, detected=told))


def _with_replay(task: Task, config: DataConfig, tokenizer: PreTrainedTokenizerBase | None) -> Task:
    if not config.replay:
        return task
    found: list[Rehearsed] = []
    leaks: tuple[Note, ...] = task.ledger.leaks
    n_own = config.n_drawn(task.n_train)
    for each, n_wanted in zip(config.replay, n_replayed(n_own, [one.share for one in config.replay])):
        source = load_task(each.path, tokenizer)
        if source.reads_images:
            raise UserError(f"{each.path} holds images, which are not replayed", "replay texts, or a task of texts")
        is_text = source.kind == "language_modelling"
        found.append(drawn(each.path, source.train, n_wanted, config.seed, is_text))
        leaks += find_leaks_between({each.path: found[-1].examples}, {("", "test"): task.test}) if task.test else ()
    told = ", ".join(f"{len(each.examples)} of {each.source}" for each in found)
    ledger = replace(task.ledger, detected=f"{task.ledger.detected}; replayed: {told}", leaks=leaks)
    return replace(task, replayed=tuple(found), ledger=ledger)


def _n_rows(parts: Mapping[str, Sequence[object]]) -> int:
    return sum(map(len, parts.values()))


def _ledger(parts: Mapping[str, Sequence[Example]], rejected: Sequence[Note], told: str, n_rows: int) -> Ledger:
    used = _n_rows(parts)
    leaks = (*find_leaks(parts["train"], parts["dev"], "dev"), *find_leaks(parts["train"], parts["test"], "test"))
    sizes = ", ".join(f"{len(part)} {name}" for name, part in parts.items())
    return Ledger(rows=n_rows, trained=used, rejected=tuple(rejected), leaks=leaks, detected=f"{told}; {sizes}")


def _some(examples: Sequence[Example], rejected: Sequence[Note], source: str) -> None:
    if not examples:
        first = f": line {rejected[0].line}: {rejected[0].reason}" if rejected else ""
        raise UserError(f"no row of {source} can be used{first}", "correct the rows, or name other columns")


def _asked_as(config: DataConfig, template: Template) -> str:
    return f", asked as {template.prompt!r}" if config.pattern != "none" else ""


def _label_list(labels: Sequence[str]) -> str:
    shown = ", ".join(labels[:6]) + (", ..." if len(labels) > 6 else "")
    return f"; {len(labels)} labels: {shown}" if labels else ""
