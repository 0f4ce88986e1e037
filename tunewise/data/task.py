"""A task: examples with splits, a prompt template and metrics; embedded, from a folder, or from one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tunewise.config import parse, read_yaml
from tunewise.data.benchmarks import DEV_ROWS, benchmark_named, benchmark_rows, is_benchmark
from tunewise.data.big import RowsRead, is_big, read_big
from tunewise.data.build import BAD, GOOD, RESULT, build, check_labels, labels_of
from tunewise.data.choices import letter
from tunewise.data.config import DataConfig
from tunewise.data.described import TaskFile, shape_of
from tunewise.data.examples import Example, Ledger, Note
from tunewise.data.found import find
from tunewise.data.images import is_image_folder, read_images
from tunewise.data.leaks import find_leaks
from tunewise.data.patterns import asked_by
from tunewise.data.readers import SUFFIXES, columns, read_rows
from tunewise.data.replay import Rehearsed, drawn, n_replayed
from tunewise.data.shapes import Kind, detect, sentence, template_of
from tunewise.data.splits import few_shot, split
from tunewise.data.streamed import Streamed, frozen
from tunewise.data.template import Template
from tunewise.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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
SPLITS = {"train": ("train",), "dev": ("dev", "valid", "validation", "val"), "test": ("test",)}


@dataclass(frozen=True)
class Task:
    """Examples in three splits, and how to ask, answer and score them; the first of `metrics` is the one that decides.

    `separator` stands between demonstrations; `ledger` accounts for the rows of all splits; `source` is where they
    came from. A split can be empty only where a task folder has no such file. Splits are tuples, or where their file is
    big sequences that read a row when it is asked for.
    """

    name: str
    kind: Kind
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

    def options(self, example: Example) -> tuple[str, ...]:
        """The answers among which one is chosen: of the labels or choices, in their order; () if none are given."""
        return example.choices or tuple(map(self.template.option, self.labels))

    def option_names(self, example: Example) -> tuple[str, ...]:
        """What each of these answers is called: its label, or its letter; good and bad of a minimal pair."""
        if self.kind == "minimal_pairs":
            return GOOD, BAD
        return tuple(letter(number) for number in range(len(example.choices))) or self.labels

    @property
    def reads_images(self) -> bool:
        return any(example.image for part in (self.train, self.dev, self.test) for example in part[:1])


def load_task(spec: str | Path | DataConfig, tokenizer: PreTrainedTokenizerBase | None = None) -> Task:
    """The task that `spec` names: "tiny:sentiment" (embedded), "glue:rte", a folder, or a csv, tsv, jsonl or json file.

    The tokenizer is needed only for chat messages, and only if they are to be written in its own chat template.
    UserError for whatever is wrong with the data; what was recognised is told in `task.ledger.detected`.
    """
    config = spec if isinstance(spec, DataConfig) else DataConfig(path=str(spec))
    task = _limited(_read(config, tokenizer), config)
    if "f1" in task.metrics and task.positive not in task.labels:
        raise UserError(
            f"{config.path}: the metric f1 counts one label, and positive is {task.positive!r}",
            f"take macro_f1, or a task.yaml with positive: {' or '.join(task.labels) or 'LABEL'}",
        )
    return _with_replay(task, config, tokenizer)


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
    return _from_rows(path, config, tokenizer)


def _from_benchmark(config: DataConfig) -> Task:
    benchmark, name = benchmark_named(config.path), config.path
    _keeps_its_columns(config, f"{name} is a benchmark")
    parts: dict[str, list[Example]] = {}
    rejected: list[Note] = []
    for part, rows in benchmark_rows(name, config.folder).items():
        parts[part], notes = build(rows, benchmark.shape, benchmark.template, f"{name}-{part}")
        rejected += [replace(note, reason=f"{part}: {note.reason}") for note in notes]
        _some(parts[part], notes, f"{name}, {part}")
    n, (train, dev, _) = len(parts["train"]), config.split
    dev = min(dev / (train + dev), DEV_ROWS / n)
    parts = _complete(parts, config.model_copy(update={"split": (1 - dev, dev, 0.0)}))
    kind = benchmark.kind.replace("_", " ")
    told = f"{name}: {kind} as the benchmark says; {benchmark.test} serves as test, a part of train as dev"
    return Task(
        name=name,
        kind=benchmark.kind,
        template=benchmark.template,
        labels=benchmark.labels,
        metrics=config.metrics or benchmark.metrics,
        train=tuple(parts["train"]),
        dev=tuple(parts["dev"]),
        test=tuple(parts["test"]),
        ledger=_ledger(parts, rejected, told),
        separator="\n\n",
        max_new_tokens=16,
        source=name,
        positive=benchmark.positive,
    )


def _keeps_its_columns(config: DataConfig, why: str) -> None:
    for name in ("text", "label", "prompt", "completion", "answer", "messages", "choices", "minimal_pair"):
        if getattr(config, name) is not None:
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
        built[part], notes = build(found, shape, template, f"{file.name}-{part}")
        rejected += notes
    examples = [example for part in built.values() for example in part]
    _some(examples, rejected, str(folder))
    labels = file.labels
    if file.kind in LABELLED:
        labels = labels or labels_of(examples, str(folder))
        check_labels(examples, labels, str(folder))
    template, parts = asked_by(config, shape, template, labels, built)
    told = f"{config.path}: {file.kind.replace('_', ' ')} as its task.yaml says"
    if config.pattern != "none":
        told += f", asked as {template.prompt!r}"
    return Task(
        name=file.name,
        kind=file.kind,
        template=template,
        labels=labels,
        metrics=config.metrics or file.metrics or _metrics(file.kind, labels, examples),
        train=tuple(parts["train"]),
        dev=tuple(parts["dev"]),
        test=tuple(parts["test"]),
        ledger=_ledger(parts, rejected, told),
        separator=file.separator,
        max_new_tokens=file.max_new_tokens,
        source=config.path,
        positive=file.positive,
        asked=shape.asked,
    )


def _from_rows(path: Path, config: DataConfig, tokenizer: PreTrainedTokenizerBase | None) -> Task:
    files = _split_files(path) if path.is_dir() else {"": path}
    is_to_be_streamed = is_big(list(files.values()), config)
    read = read_big(files, config, tokenizer) if is_to_be_streamed else _read_whole(files, config, tokenizer)
    shape, examples = read.shape, read.witnesses
    _some(examples, read.rejected, config.path)
    labels = labels_of(examples, config.path) if shape.kind in LABELLED else ()
    # after the split, which goes by the texts of prompts: however rows are asked, they fall into the same parts
    template, parts = asked_by(config, shape, read.template, labels, read.parts(config))
    return Task(
        name=path.resolve().name if path.is_dir() else path.stem,
        kind=shape.kind,
        template=template,
        labels=labels,
        metrics=config.metrics or _metrics(shape.kind, labels, examples),
        train=frozen(parts["train"]),
        dev=frozen(parts["dev"]),
        test=frozen(parts["test"]),
        ledger=_ledger(parts, read.rejected, sentence(shape, template, config, read.known) + _label_list(labels)),
        separator="\n\n",
        # half as many tokens as the longest answer has characters are enough for any but the smallest vocabularies
        max_new_tokens=min(256, max(16, max(len(example.answer) for example in examples) // 2)),
        source=config.path,
        asked=shape.asked,
    )


def _read_whole(files: dict[str, Path], config: DataConfig, tokenizer: PreTrainedTokenizerBase | None) -> RowsRead:
    rows = {part: read_rows(file) for part, file in files.items()}
    every = [row for part in rows.values() for row in part]
    shape, known = detect(every, config), columns(every)
    template = template_of(shape, config, known)
    parts: dict[str, list[Example]] = {}
    rejected: list[Note] = []
    for part, file in files.items():
        parts[part], notes = build(rows[part], shape, template, file.stem, tokenizer)
        rejected += [replace(note, reason=f"{file.name}: {note.reason}") for note in notes] if part else notes
    examples = [example for part in parts.values() for example in part]
    return RowsRead(shape, template, known, rejected, examples, lambda config: _complete(parts, config))


def _from_images(folder: Path, config: DataConfig) -> Task:
    if config.pattern != "none" or config.words:
        raise UserError(f"{config.path} holds images, which are not asked in words", "leave out pattern and words")
    parts = read_images(folder)
    labels = labels_of([example for part in parts.values() for example in part], config.path)
    parts = _complete(parts, config)
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
        ledger=_ledger(parts, [], told),
        separator="",
        max_new_tokens=16,
        source=config.path,
    )


def _metrics(kind: Kind, labels: Sequence[str], examples: Sequence[Example]) -> tuple[str, ...]:
    """The kind's own, but where the answers say more of what is asked of them.

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


def _split_files(folder: Path) -> dict[str, Path]:
    """The folder's files for train, dev and test; train at least."""
    files = {}
    for part, names in SPLITS.items():
        candidates = [folder / f"{name}{suffix}" for name in names for suffix in SUFFIXES]
        found = [file for file in candidates if file.is_file()]
        if len(found) > 1:
            raise UserError(f"{folder} has {found[0].name} and {found[1].name} for {part}", "keep one of them")
        if found:
            files[part] = found[0]
    if "train" not in files:
        inside = ", ".join(sorted(file.name for file in folder.iterdir())[:8])
        raise UserError(
            f"{folder} has neither a task.yaml nor a train file (train.csv, train.tsv, train.jsonl, train.json)",
            f"name one of its files: {inside}" if inside else "it is empty",
        )
    return files


def _complete(parts: dict[str, list[Example]], config: DataConfig) -> dict[str, list[Example]]:
    """Three parts: those that have a file of their own as it is, the others split from the one file or from train."""
    given = {name: part for name, part in parts.items() if name not in ("", "train")}
    rest = parts.get("", parts.get("train", []))
    shares = {name: share for name, share in zip(("train", "dev", "test"), config.split) if name not in given}
    made = dict(zip(shares, map(list, split(rest, list(shares.values()), config.seed))))
    return {name: (given | made)[name] for name in ("train", "dev", "test")}


def _limited(task: Task, config: DataConfig) -> Task:
    if config.train is None or config.train >= len(task.train):
        return task
    if isinstance(task.train, Streamed):
        train: Sequence[Example] = task.train.only(task.train.drawn(config.train, config.seed, balanced=False))
    else:
        chosen = {id(example) for example in few_shot(task.train, config.train, config.seed, balanced=False)}
        train = tuple(example for example in task.train if id(example) in chosen)
    told = f"{task.ledger.detected}; {len(train)} of {len(task.train)} training examples taken"
    return replace(task, train=train, ledger=replace(task.ledger, detected=told))


def _with_replay(task: Task, config: DataConfig, tokenizer: PreTrainedTokenizerBase | None) -> Task:
    if not config.replay:
        return task
    found: list[Rehearsed] = []
    leaks: tuple[Note, ...] = task.ledger.leaks
    for each, n_wanted in zip(config.replay, n_replayed(len(task.train), [one.share for one in config.replay])):
        source = load_task(each.path, tokenizer)
        is_text = source.kind == "language_modelling"
        found.append(drawn(each.path, source.train, n_wanted, config.seed, is_text))
        leaks += find_leaks(found[-1].examples, task.test, "test") if task.test else ()
    told = ", ".join(f"{len(each.examples)} of {each.source}" for each in found)
    ledger = replace(task.ledger, detected=f"{task.ledger.detected}; replayed: {told}", leaks=leaks)
    return replace(task, replayed=tuple(found), ledger=ledger)


def _ledger(parts: Mapping[str, Sequence[Example]], rejected: Sequence[Note], told: str) -> Ledger:
    used = sum(len(part) for part in parts.values())
    leaks = (*find_leaks(parts["train"], parts["dev"], "dev"), *find_leaks(parts["train"], parts["test"], "test"))
    sizes = ", ".join(f"{len(part)} {name}" for name, part in parts.items())
    return Ledger(
        rows=used + len(rejected), trained=used, rejected=tuple(rejected), leaks=leaks, detected=f"{told}; {sizes}"
    )


def _some(examples: Sequence[Example], rejected: Sequence[Note], source: str) -> None:
    if not examples:
        first = f": line {rejected[0].line}: {rejected[0].reason}" if rejected else ""
        raise UserError(f"no row of {source} can be used{first}", "correct the rows, or name other columns")


def _label_list(labels: Sequence[str]) -> str:
    shown = ", ".join(labels[:6]) + (", ..." if len(labels) > 6 else "")
    return f"; {len(labels)} labels: {shown}" if labels else ""
