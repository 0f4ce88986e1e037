"""Instruction sets: tasks in, a folder of instructions and answers out, for each of them."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from tunewise import files
from tunewise.config import Strict, dump_yaml, parse
from tunewise.data.config import DataConfig
from tunewise.data.examples import Note
from tunewise.data.found import find
from tunewise.data.instruct.clusters import read_cluster
from tunewise.data.instruct.drawing import Drawing, Drawn, drawn
from tunewise.data.instruct.reading import ACCEPTED, OPTIONS
from tunewise.data.instruct.recognition import AUTO, recognised
from tunewise.data.instruct.records import Record, reading_of
from tunewise.data.load import load_task
from tunewise.data.streamed import some_of
from tunewise.data.task import Task
from tunewise.errors import UserError

PLAN, SUMMARY, MIXTURE = "sets.yaml", "sets.json", "mixture.yaml"

HeldOut = Literal["", "task", "cluster"]
"""How far a set is from what is trained on: it is trained on itself, others of its cluster are, or none of them is."""

OF_A_RUN = ("few_shot", "replay", "trained_on", "pattern", "answered")
"""Fields of data that say what a run trains on, and how it asks where no templates do."""


class Source(Strict):
    """One task, and the templates that ask it."""

    data: DataConfig
    """Anything that `--data` takes, or that and what its columns mean."""
    templates: str = AUTO
    """A cluster, a yaml file with templates of your own, or auto where the data leave no doubt."""
    name: str = Field("", pattern=r"^[\w-]*$")
    """What it is called, in letters, digits, - and _; "" takes the task's own name."""
    limit: int | None = Field(None, ge=1)
    """At most so many rows of each of its parts; None takes that of all tasks."""
    slots: dict[str, str] = Field(default_factory=dict)
    """Slots that hold the same in every row, such as {target_language: Norwegian}."""
    weight: float | None = Field(None, gt=0)
    """Its share of the mixture's draws is this over the sum of all; None leaves the mixture proportional."""

    @field_validator("data", mode="before")
    @classmethod
    def _path_alone(cls, data: Any) -> Any:
        return {"path": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _asked_by_templates(self) -> Self:
        said = self.data.model_dump(exclude_defaults=True)
        if lost := next((name for name in OF_A_RUN if name in said), ""):
            raise ValueError(
                f"data.{lost} changes nothing that templates ask; leave it out, or say it of the set built"
            )
        return self


class InstructionSets(Drawing):
    """What `tunewise data build` carries out."""

    tasks: tuple[Source, ...] = Field(min_length=1)
    hold_out: tuple[str, ...] = ()
    """Clusters, or tasks by their names, of which no row is trained on: they give their test rows alone, a single file
    all of its rows."""
    limit: int | None = Field(None, ge=1)
    """At most so many rows of each part of a task; None takes all."""
    messages: bool = False
    """Write chat messages in place of prompt and completion."""


@dataclass(frozen=True)
class InstructionSet:
    """The instructions of one task, by part, and the rows that none could be made of."""

    name: str
    source: str
    cluster: str
    held_out: HeldOut
    parts: Mapping[str, Sequence[Drawn]]
    rejected: Sequence[Note]
    detected: str
    weight: float | None = None

    @property
    def is_held_out(self) -> bool:
        """Whether none of its rows is trained on."""
        return self.held_out != ""

    def summary(self) -> dict[str, Any]:
        """What is in it, in numbers: rows by part, templates, and how many training rows have which form."""
        every = [each for part in self.parts.values() for each in part]
        forms = Counter(word for each in every for word in each.form.split())
        return {
            "task": self.name,
            "source": self.source,
            "cluster": self.cluster,
            "held_out": self.held_out,
            "rows": {part: len(rows) for part, rows in self.parts.items()},
            "templates": len({each.template for each in every}),
            "forms": dict(sorted(forms.items())),
            "rejected": len(self.rejected),
            "first_reason": f"line {self.rejected[0].line}: {self.rejected[0].reason}" if self.rejected else "",
            "detected": self.detected,
        }


def build_instructions(
    plan: InstructionSets | Mapping[str, Any], out: str | Path | None = None
) -> list[InstructionSet]:
    """The instruction set of each task of the plan; with `out` written there, a folder for each of several.

    A folder has train.jsonl, dev.jsonl and test.jsonl, which `--data` takes; mixture.yaml names those with rows to be
    trained on. UserError for whatever is wrong with plan, data or templates.
    """
    plan = plan if isinstance(plan, InstructionSets) else parse(InstructionSets, plan)
    found: list[InstructionSet] = []
    for source in plan.tasks:
        built = instruction_set(source, plan)
        if built.name in {other.name for other in found}:
            raise UserError(f"two of the tasks are called {built.name}", "give one of them another name: name: NAME")
        found.append(built)
    known = {each for built in found for each in (built.name, built.cluster)}
    files_of_templates = {source.templates for source in plan.tasks}
    if lost := next((name for name in plan.hold_out if name not in known | files_of_templates), ""):
        raise UserError(
            f"hold_out names {lost!r}, of which there is no task",
            f"name a cluster or a task: {', '.join(sorted(known))}",
        )
    if all(built.is_held_out for built in found):
        raise UserError("every task is held out", "leave one of them to be trained on")
    found = _by_distance(found)
    if out is not None:
        _write(found, plan, Path(out))
    return found


def _by_distance(found: Sequence[InstructionSet]) -> list[InstructionSet]:
    """Each with how far it is from those that have rows to be trained on, where there are some beside it."""
    trained = [built.cluster for built in found if built.parts["train"]]
    return [
        built
        if built.parts["train"] or not trained
        else replace(built, held_out="task" if built.cluster in trained else "cluster")
        for built in found
    ]


def _write(found: Sequence[InstructionSet], plan: InstructionSets, out: Path) -> None:
    with files.folder(out) as new:
        for built in found:
            place = new if len(found) == 1 else new / built.name
            for part, rows in built.parts.items():
                if rows:
                    files.write_jsonl(place / f"{part}.jsonl", [_row(each, built, plan.messages) for each in rows])
        if len(found) > 1:
            files.write_text(new / MIXTURE, dump_yaml(_mixture(found)))
        files.write_text(new / PLAN, dump_yaml(plan))
        files.write_json(new / SUMMARY, [built.summary() for built in found])


def _mixture(found: Sequence[InstructionSet]) -> dict[str, Any]:
    """Those that have rows to be trained on, each by the folder beside it: they may be moved together."""
    trained = [built for built in found if built.parts["train"]]
    if all(built.weight is None for built in trained):
        return {"sources": {built.name: built.name for built in trained}}
    lacking = next((built.name for built in trained if built.weight is None), None)
    if lacking is not None:
        raise UserError(
            f"{lacking} has no weight, and others have", "give all tasks that are trained on a weight, or none"
        )
    return {"sources": {each.name: {"path": each.name, "weight": each.weight} for each in trained}, "mixing": "weights"}


def instruction_set(source: Source, plan: InstructionSets) -> InstructionSet:
    """The instructions of one task, nothing written."""
    task = load_task(source.data)
    _refuse_what_has_no_slots(task)
    name = recognised(task, source.slots) if source.templates == AUTO else source.templates
    cluster = read_cluster(name)
    reading = reading_of(task, cluster, source.slots, name)
    own_name = source.name or re.sub(r"[^\w-]+", "-", task.name)
    own_cluster = {name, Path(name).stem} & set(plan.hold_out)
    held_out: HeldOut = "cluster" if own_cluster else "task" if own_name in plan.hold_out else ""
    if held_out and "split" not in source.data.model_fields_set and find(source.data.path).is_file():
        task = load_task(source.data, all_asked=True)
    rejected = list(task.ledger.rejected)
    parts: dict[str, list[Drawn]] = {"train": [], "dev": [], "test": []}
    shown: list[Record] = []
    for part, examples in (("train", task.train), ("dev", task.dev), ("test", task.test)):
        if held_out and part != "test":
            continue
        taken = some_of(examples, source.limit or plan.limit, plan.seed)
        records = _told_apart([reading.record(example) for example in taken])
        shown = records if part == "train" else shown
        parts[part], left = drawn(records, shown, cluster, plan, part == "train")
        rejected += [Note(record.line, f"{part}: no template of {name} fits it") for record in left]
        if records and not parts[part]:
            raise UserError(f"no template of {name} fits a {part} row of {task.source}", _why_none(plan))
    if not any(parts.values()):
        raise UserError(f"{task.source} has no test rows, and it is held out", "name a task that has some")
    return InstructionSet(
        name=own_name,
        source=task.source,
        cluster=Path(name).stem,
        held_out=held_out,
        parts=parts,
        rejected=rejected,
        detected=task.ledger.detected,
        weight=source.weight,
    )


def _refuse_what_has_no_slots(task: Task) -> None:
    if task.mixture is not None:
        raise UserError(f"{task.source} is a mixture", f"build from its sources, one a task: {', '.join(task.each)}")
    first = next(iter((*task.train, *task.dev, *task.test)))
    if task.reads_images:
        raise UserError(f"{task.source} holds images, which no template asks in words", "name a task of texts")
    if task.kind in ("generation", "classification") and not first.texts:
        raise UserError(
            f"{task.source} holds {'messages' if len(first.parts) > 1 else 'texts'} without columns to fill slots from",
            "it is a set of instructions already, or name its columns: data.prompt=COLUMN data.completion=COLUMN",
        )


def _told_apart(records: Sequence[Record]) -> list[Record]:
    """The records with an id each: rows of one line, such as those of a json without line ends, share theirs."""
    seen = Counter[str]()
    found = []
    for record in records:
        seen[record.id] += 1
        again = seen[record.id]
        found.append(record if again == 1 else replace(record, id=f"{record.id}.{again}"))
    return found


def _why_none(plan: InstructionSets) -> str:
    if plan.held_out_templates:
        return f"hold out more or fewer templates than {plan.held_out_templates}, or draw others by another seed"
    return "name another cluster, or write templates of your own over its slots"


def _row(each: Drawn, built: InstructionSet, messages: bool) -> dict[str, Any]:
    """A row as it is written: what is asked and answered, and where it comes from."""
    instruction, record = each.instruction, each.record
    provenance = {
        "task": built.name,
        "cluster": built.cluster,
        "template": each.template,
        "form": each.form,
        "line": record.line,
    }
    identity = {"id": f"{record.id}/{each.template}"}
    if messages:
        turns = [("user", instruction.prompt.rstrip()), ("assistant", instruction.completion)]
        return identity | {"messages": [{"role": role, "content": text} for role, text in turns]} | provenance
    row: dict[str, Any] = {"prompt": instruction.prompt, "completion": instruction.completion}
    if instruction.options:
        row[OPTIONS] = list(instruction.options)
    if instruction.completion in record.accepted and len(record.accepted) > 0:
        row[ACCEPTED] = list(record.accepted)
    return identity | row | provenance
