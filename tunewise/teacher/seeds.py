"""Seed tasks: what a teacher is shown of the tasks that are wanted, written by people."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from tunewise.data.readers import read_rows
from tunewise.errors import UserError

FEWEST = 4
"""With fewer the teacher repeats them. Self-Instruct had 175."""


@dataclass(frozen=True)
class Task:
    """An instruction with examples of what is put in and what comes out, as (input, output); inputs may be empty."""

    id: str
    instruction: str
    instances: tuple[tuple[str, str], ...]
    is_classification: bool | None = None
    """Whether the output is one of a few labels; None where nobody said."""


def read_seeds(path: str | Path) -> list[Task]:
    """The seed tasks of a file, in Self-Instruct's form (instruction, instances, is_classification) or with columns
    instruction, input and output. UserError for a file of other columns, or of fewer than FEWEST tasks."""
    # the reader makes a row of each instance of a task; they stand on its line
    of_each = groupby(read_rows(path), key=lambda row: (row.line, row.fields.get("instruction")))
    tasks = [
        _task(f"{path}, line {line}", f"seed{number}", [row.fields for row in rows])
        for number, ((line, _), rows) in enumerate(of_each, start=1)
    ]
    if len(tasks) < FEWEST:
        raise UserError(f"{path} holds {len(tasks)} seed tasks", f"write {FEWEST} at least, of different kinds")
    if twice := _twice([task.id for task in tasks]):
        raise UserError(f"{path} holds two tasks with the id {twice}", "give each its own id, or none at all")
    return tasks


def _task(where: str, name: str, instances: Sequence[Mapping[str, str | list]]) -> Task:
    fields = instances[0]
    instruction = fields.get("instruction")
    if not isinstance(instruction, str) or not instruction.strip():
        raise UserError(f"{where} has no instruction", 'write {"instruction": "...", "input": "", "output": "..."}')
    pairs = tuple(pair for instance in instances if (pair := _pair(instance)))
    if not pairs:
        raise UserError(f"{where} has no output", 'write {"instruction": "...", "input": "", "output": "..."}')
    # the reader of rows writes a truth value as JSON does
    told = {"true": True, "false": False}.get(str(fields.get("is_classification", "")).lower())
    identity = str(fields.get("id") or name)
    return Task(identity.removesuffix(".1") if len(instances) > 1 else identity, instruction.strip(), pairs, told)


def _pair(item: Mapping[str, object]) -> tuple[str, str] | None:
    given, output = (str(item.get(name) or "").strip() for name in ("input", "output"))
    return (given, output) if output else None


def _twice(names: list[str]) -> str:
    return next((name for index, name in enumerate(names) if name in names[:index]), "")
