"""A task: examples with splits, a prompt template and metrics; embedded, from a folder, or from one file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tunewise.config import Strict, parse, read_yaml
from tunewise.data.build import build, check_labels, labels_of
from tunewise.data.config import DataConfig
from tunewise.data.examples import Example, Ledger, Note
from tunewise.data.images import is_image_folder, read_images
from tunewise.data.leaks import find_leaks
from tunewise.data.readers import SUFFIXES, columns, read_rows
from tunewise.data.shapes import Kind, Shape, detect, sentence, template_of
from tunewise.data.splits import few_shot, split
from tunewise.data.template import Template, fill
from tunewise.errors import UserError, missing, unknown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EMBEDDED = Path(__file__).parent / "embedded"
METRICS: dict[Kind, tuple[str, ...]] = {
    "classification": ("accuracy", "macro_f1", "mcc"),
    "regression": ("pearson", "spearman", "rmse"),
    "tagging": ("span_f1", "token_accuracy"),
    "generation": ("rougeL", "chrf", "exact_match"),
    "language_modelling": ("loss",),
}
LABELLED = ("classification", "tagging")
SPLITS = {"train": ("train",), "dev": ("dev", "valid", "validation", "val"), "test": ("test",)}


@dataclass(frozen=True)
class Task:
    """Examples in three splits, and how to ask, answer and score them; the first of `metrics` is the one that decides.

    `separator` stands between demonstrations; `ledger` accounts for the rows of all splits; `source` is where they
    came from. A split can be empty only where a task folder has no such file.
    """

    name: str
    kind: Kind
    template: Template
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    test: tuple[Example, ...]
    ledger: Ledger
    separator: str
    max_new_tokens: int
    source: str
    asked: tuple[str, ...] = ()
    """The columns that an example's `texts` come from."""

    def options(self, example: Example) -> tuple[str, ...]:
        """The answer text of each label, in the order of `labels`; () unless the task is a classification."""
        return tuple(fill(self.template.answer, {"label": label}) for label in self.labels)

    @property
    def reads_images(self) -> bool:
        return any(example.image for part in (self.train, self.dev, self.test) for example in part)


class TaskFile(Strict):
    """The task.yaml of a task folder."""

    name: str
    kind: Kind
    prompt: str
    """Template of the prompt."""
    answer: str
    """Template of the answer."""
    labels: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    separator: str = "\n\n"
    max_new_tokens: int = 16
    license: str = ""
    description: str = ""


def load_task(spec: str | Path | DataConfig, tokenizer: PreTrainedTokenizerBase | None = None) -> Task:
    """The task that `spec` names: "tiny:sentiment" (embedded), a folder, or a csv, tsv, jsonl or json file.

    The tokenizer is needed only for chat messages, and only if they are to be written in its own chat template.
    UserError for whatever is wrong with the data; what was recognised is told in `task.ledger.detected`.
    """
    config = spec if isinstance(spec, DataConfig) else DataConfig(path=str(spec))
    path = find(config.path)
    if (path / "task.yaml").is_file():
        return _limited(_from_task_folder(path, config), config)
    if path.is_dir() and is_image_folder(path):
        return _limited(_from_images(path, config), config)
    return _limited(_from_rows(path, config, tokenizer), config)


def find(spec: str) -> Path:
    """Where a task's file or folder lies; UserError where there is none. Nothing of it is read."""
    known = sorted(folder.parent.name for folder in EMBEDDED.glob("*/task.yaml"))
    if spec.startswith("tiny:"):
        name = spec.removeprefix("tiny:")
        if name not in known:
            raise unknown("embedded task", name, known)
        return EMBEDDED / name
    path = Path(spec)
    if not path.exists():
        if spec in known:
            raise UserError(f"no such file: {path}", f"did you mean the embedded task tiny:{spec}?")
        raise missing(path)
    return path


def _from_task_folder(folder: Path, config: DataConfig) -> Task:
    for name in ("text", "label", "prompt", "completion", "answer", "messages"):
        if getattr(config, name) is not None:
            raise UserError(
                f"{folder.name} has a task.yaml, which says what its columns mean; data.{name} cannot change that",
                f"leave data.{name} out, or name one of the folder's files instead",
            )
    file = parse(TaskFile, read_yaml(folder / "task.yaml"), where=str(folder / "task.yaml"))
    template = Template(file.prompt, file.answer)
    answered = next(iter(Template("", file.answer).fields()), "")
    asked = Template(file.prompt, "").fields()
    shape = {
        "classification": Shape("text and label", asked, "label"),
        "regression": Shape("text and value", asked, "label"),
        "tagging": Shape("words and tags", asked, answered),
        "generation": Shape("prompt and completion", asked, answered),
        "language_modelling": Shape("text", (answered,)),
    }[file.kind]
    parts: dict[str, list[Example]] = {"train": [], "dev": [], "test": []}
    rejected: list[Note] = []
    for part in parts:
        if (folder / f"{part}.jsonl").is_file():
            rows = read_rows(folder / f"{part}.jsonl")
            for slot in template.fields():
                if slot not in columns(rows):
                    raise unknown(f"column of {folder / part}.jsonl", slot, columns(rows))
            parts[part], notes = build(rows, shape, template, f"{file.name}-{part}")
            rejected += notes
    examples = [example for part in parts.values() for example in part]
    _some(examples, rejected, str(folder))
    labels = file.labels
    if file.kind in LABELLED:
        labels = labels or labels_of(examples, str(folder))
        check_labels(examples, labels, str(folder))
    told = f"{config.path}: {file.kind.replace('_', ' ')} as its task.yaml says"
    return Task(
        name=file.name,
        kind=file.kind,
        template=template,
        labels=labels,
        metrics=file.metrics or _metrics(file.kind, labels),
        train=tuple(parts["train"]),
        dev=tuple(parts["dev"]),
        test=tuple(parts["test"]),
        ledger=_ledger(parts, rejected, told),
        separator=file.separator,
        max_new_tokens=file.max_new_tokens,
        source=config.path,
        asked=shape.asked,
    )


def _from_rows(path: Path, config: DataConfig, tokenizer: PreTrainedTokenizerBase | None) -> Task:
    files = _split_files(path) if path.is_dir() else {"": path}
    rows = {part: read_rows(file) for part, file in files.items()}
    every = [row for part in rows.values() for row in part]
    shape = detect(every, config)
    template = template_of(shape, config, columns(every))
    parts: dict[str, list[Example]] = {}
    rejected: list[Note] = []
    for part, file in files.items():
        parts[part], notes = build(rows[part], shape, template, file.stem, tokenizer)
        rejected += [replace(note, reason=f"{file.name}: {note.reason}") for note in notes] if part else notes
    examples = [example for part in parts.values() for example in part]
    _some(examples, rejected, config.path)
    labels = labels_of(examples, config.path) if shape.kind in LABELLED else ()
    parts = _complete(parts, config)
    return Task(
        name=path.resolve().name if path.is_dir() else path.stem,
        kind=shape.kind,
        template=template,
        labels=labels,
        metrics=_metrics(shape.kind, labels),
        train=tuple(parts["train"]),
        dev=tuple(parts["dev"]),
        test=tuple(parts["test"]),
        ledger=_ledger(parts, rejected, sentence(shape, template, config, columns(every)) + _label_list(labels)),
        separator="\n\n",
        # half as many tokens as the longest answer has characters are enough for any but the smallest vocabularies
        max_new_tokens=min(256, max(16, max(len(example.answer) for example in examples) // 2)),
        source=config.path,
        asked=shape.asked,
    )


def _from_images(folder: Path, config: DataConfig) -> Task:
    parts = read_images(folder)
    labels = labels_of([example for part in parts.values() for example in part], config.path)
    parts = _complete(parts, config)
    told = f"{config.path}: images in a folder for each class" + _label_list(labels)
    return Task(
        name=folder.resolve().name,
        kind="classification",
        template=Template("", " {label}"),
        labels=labels,
        metrics=METRICS["classification"],
        train=tuple(parts["train"]),
        dev=tuple(parts["dev"]),
        test=tuple(parts["test"]),
        ledger=_ledger(parts, [], told),
        separator="",
        max_new_tokens=16,
        source=config.path,
    )


def _metrics(kind: Kind, labels: Sequence[str]) -> tuple[str, ...]:
    """The kind's own; tags that mark no spans (parts of speech) are counted one by one."""
    if kind == "tagging" and not any(label.startswith("B-") for label in labels):
        return ("token_accuracy",)
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
    chosen = {id(example) for example in few_shot(task.train, config.train, config.seed, balanced=False)}
    train = tuple(example for example in task.train if id(example) in chosen)
    told = f"{task.ledger.detected}; {len(train)} of {len(task.train)} training examples taken"
    return replace(task, train=train, ledger=replace(task.ledger, detected=told))


def _ledger(parts: dict[str, list[Example]], rejected: Sequence[Note], told: str) -> Ledger:
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
