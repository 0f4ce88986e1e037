"""A row of dev, as a person would type it: drawn to be asked by hand, with its right answer."""

import random
from collections.abc import Mapping
from dataclasses import dataclass

from tunewise.data.chat_template import SENTINEL
from tunewise.data.choices import letter, lettered
from tunewise.data.conversations import Conversations
from tunewise.data.examples import Example
from tunewise.data.messages import Message
from tunewise.data.sandbox import Refused
from tunewise.data.task import Task
from tunewise.data.typed import CHOICES, IMAGE, SEPARATOR, TYPED, columns_of, typed_example
from tunewise.errors import UserError

TRIES = 20
"""Rows that are looked at before it is given up: of some, what was typed cannot be told from the prompt."""


@dataclass(frozen=True)
class Drawn:
    """A row of dev: what each column of its question holds, and every right answer, the trained one first."""

    id: str
    told: Mapping[str, str]
    right: tuple[str, ...]
    is_chosen: bool
    """Whether the answer is one of several; of a written one other words can be as right."""

    def is_right(self, text: str) -> bool | None:
        """Whether an answer is right; None where that cannot be said."""
        if any(text.split() == one.split() for one in self.right):
            return True
        return False if self.is_chosen else None


def draw(task: Task, draws: random.Random) -> Drawn | None:
    """A row of dev, which was trained on by none of its runs; None where there is none that can be typed."""
    for _ in range(min(TRIES, len(task.dev))):
        example = task.dev[draws.randrange(len(task.dev))]
        told = told_of(task, example)
        if told is not None:
            is_chosen = task.kind in ("classification", "multiple_choice", "tagging")
            return Drawn(example.id, told, _right(task, example), is_chosen)
    return None


def told_of(task: Task, example: Example) -> dict[str, str] | None:
    """Column -> text, from which `typed_example` makes the same question; None where no such texts were found."""
    try:
        columns = columns_of(task)
        for told in _candidates(task, example):
            if set(told) == set(columns) and _is_same(typed_example(task, told), example):
                return told
    except (UserError, Refused):
        return None
    return None


def _is_same(one: Example, other: Example) -> bool:
    if other.image:  # a digest of which stands in for a prompt
        return one.image == other.image
    return one.prompt == other.prompt and one.choices in ((), other.choices)


def _candidates(task: Task, example: Example) -> list[dict[str, str]]:
    """What may have been typed."""
    if example.image:
        return [{IMAGE: example.image}]
    if task.kind == "language_modelling":
        return [{TYPED: example.text}]
    if task.chat is not None:
        return [{TYPED: text} for text in _turn_in(task, example)]
    if task.kind == "tagging":
        return [{task.asked[0]: " ".join(example.texts)}]
    told = dict(zip(task.asked, example.texts, strict=False))
    if task.kind != "multiple_choice":
        return [told]
    return [told | {CHOICES: SEPARATOR.join(texts)} for texts in _choices_in(example)]


def _turn_in(task: Task, example: Example) -> list[str]:
    """The user's turn of a conversation that has no other before its answer."""
    assert task.chat is not None
    opened = Conversations(task.chat).opened([Message("user", SENTINEL, trained=False)])
    before, _, behind = opened.partition(SENTINEL)
    prompt = example.prompt
    if not (prompt.startswith(before) and prompt.endswith(behind)):
        return []
    turn = prompt[len(before) : len(prompt) - len(behind)]
    return [] if behind.strip() and behind.strip() in turn else [turn]


def _choices_in(example: Example) -> list[list[str]]:
    """The texts of its choices: its answers, or what stands behind their letters in the prompt."""
    found = [[text.strip() for text in example.choices]]
    names = [f"{letter(number)}. " for number in range(len(example.choices))]
    lines = example.prompt.splitlines()
    for start in range(len(lines) - len(names) + 1):
        texts = [line.removeprefix(name) for line, name in zip(lines[start:], names, strict=False)]
        if lettered(texts) == "\n".join(lines[start : start + len(names)]):
            found.append(texts)
    return found


def _right(task: Task, example: Example) -> tuple[str, ...]:
    if task.kind == "language_modelling":
        return ()
    if task.kind == "tagging":
        return (" ".join(example.tags),)
    if task.kind == "multiple_choice" and example.label is not None:
        names = task.option_names(example)
        return (example.choices[names.index(example.label)].strip(),)
    if task.kind == "generation" or example.label is None:
        return example.accepted or (example.answer.strip(),)
    return (example.label,)
