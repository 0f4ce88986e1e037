"""Whether the classes of a task are those that the classifier of an adapter tells; other rows have no right answer."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tunewise.adapter_folders import CARD
from tunewise.data.task import Task
from tunewise.errors import UserError
from tunewise.methods.store import head_noted
from tunewise.models.heads import TaskHead

MOST_TOLD = 5
_CALLED = {"lm": "words", "classes": "classes", "value": "a number", "tags": "tags"}


def head_in(adapter: Path | None) -> TaskHead | None:
    """The head that an adapter of ours was trained on; None where there is none, or it is another library's."""
    return head_noted(adapter) if adapter is not None and (adapter / CARD).is_file() else None


def told_by(head: TaskHead | None, task: Task, wanted: TaskHead, adapter: object) -> tuple[Task, TaskHead]:
    """The task with the classes of the adapter's head, of which its rows may hold some alone, and that head.

    UserError where the adapter answers in another way than `wanted`, and where the task has other classes.
    """
    if head is None or head == wanted or task.mixture is not None:
        return task, wanted
    refuse_other_classes(head, wanted, task.name, adapter)
    return (replace(task, labels=head.labels), head) if set(wanted.labels) < set(head.labels) else (task, wanted)


def refuse_other_classes(head: TaskHead, wanted: TaskHead, name: str, adapter: object) -> None:
    """UserError where a head answers in another way than the task `name` wants, or tells none of some of its classes.

    A head whose classes have numbers for names, as in transformers, may tell any, as long as it is as many.
    """
    if head.kind != wanted.kind:
        raise UserError(
            f"{adapter} answers with {_CALLED[head.kind]}, and {name} wants {_CALLED[wanted.kind]}",
            "give data of the kind that it was trained on: --data FILE",
        )
    unnamed = all(label == f"LABEL_{number}" for number, label in enumerate(head.labels))
    if unnamed and len(head.labels) == len(wanted.labels):
        return
    others = [label for label in wanted.labels if label not in head.labels]
    if others:
        raise UserError(
            f"{adapter} tells the {_CALLED[head.kind]} {_some(head.labels)}, and {name} has {_some(others)}",
            "write its labels as the adapter knows them",
        )


def _some(labels: Sequence[str]) -> str:
    return ", ".join(labels[:MOST_TOLD]) + (f" and {len(labels) - MOST_TOLD} more" if len(labels) > MOST_TOLD else "")
