"""Rows -> examples, by a shape and its template; a row that yields none is told with its line."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile

from tunewise.data.choices import letter, lettered, texts_in
from tunewise.data.conversations import Conversations
from tunewise.data.examples import Example, Note, Part
from tunewise.data.instruct.reading import accepted_of, mould_of, options_of
from tunewise.data.messages import Message
from tunewise.data.readers import Row
from tunewise.data.shapes import Shape, number_of
from tunewise.data.template import Template
from tunewise.errors import UserError, nearest

GOOD, BAD = "good", "bad"
"""The sentences of a minimal pair."""
DESIRABLE = ("true", "1")
RESULT = re.compile(r"####\s*[-$]?[\d,.]+\s*$")
"""How an answer of arithmetic (gsm8k) ends."""


def build(
    rows: Sequence[Row],
    shape: Shape,
    template: Template,
    ids: Sequence[str],
    chat: Conversations | None = None,
    group: str | None = None,
) -> tuple[list[Example], list[Note]]:
    """Examples in the order of the rows, and one note for each row that has nothing to ask or nothing to answer.

    `chat` writes rows of messages, and of prompts with their answers where it is given.
    `ids` are those of `ids_of`; `group` is the column whose value they keep.
    """
    examples: list[Example] = []
    rejected: list[Note] = []
    for row, identity in zip(rows, ids, strict=True):
        try:
            example = _example(row, shape, template, identity, chat)
            if group:
                example = replace(example, group=str(row.fields.get(group, "")).strip())
            examples.append(replace(example, mould=mould) if (mould := mould_of(row)) else example)
        except UserError as error:
            rejected.append(Note(row.line, error.message))
    return examples, rejected


def ids_of(rows: Sequence[Row], name: str, taken: Collection[str] = ()) -> list[str]:
    """The rows' own `id` where every row has another one, else `name:line`, or `name:number` where a line has several.

    Own ids of which one is taken, as where train and test both count from 1, get the name before them.
    """
    own = [str(row.fields.get("id", "")) for row in rows]
    if len(set(own)) == len(rows) and "" not in own:
        return own if set(own).isdisjoint(taken) else [f"{name}:{each}" for each in own]
    one_a_line = len({row.line for row in rows}) == len(rows)
    return [f"{name}:{row.line if one_a_line else number}" for number, row in enumerate(rows, start=1)]


def labels_of(examples: Sequence[Example], source: str) -> tuple[str, ...]:
    """The labels (or tags) that occur, numbers by size and names by alphabet; UserError for fewer than two."""
    found = {tag for example in examples for tag in example.tags} | {example.label for example in examples}
    labels = sorted((label for label in found if label is not None), key=_by_size)
    if len(labels) < 2:
        raise UserError(
            f"{source} has one class only: every label is {labels[0] if labels else ''!r}",
            "name the column with the classes, data.label=COLUMN, or add rows of another class",
        )
    return tuple(labels)


def check_labels(examples: Sequence[Example], labels: Sequence[str], source: str) -> None:
    """UserError for the first example whose label is none of these."""
    for example in examples:
        wrong = next((label for label in (example.tags or (example.label,)) if label not in labels), "")
        if wrong != "":
            guess = nearest(str(wrong), labels)
            raise UserError(
                f"{source}, line {example.line}: the label {wrong!r} is none of the task's",
                (f"did you mean {guess!r}? " if guess else "") + f"known: {', '.join(labels)}",
            )


def _example(row: Row, shape: Shape, template: Template, identity: str, chat: Conversations | None) -> Example:
    if shape.desirable and str(row.fields.get(shape.desirable, "")).lower() not in DESIRABLE:
        raise UserError(f"its {shape.answered or 'answer'} is not desirable by {shape.desirable}")
    if shape.talk:
        assert chat is not None
        conversation = shape.talk.of(row)
        return chat.example(identity, row.line, conversation.messages, conversation.tools)
    if shape.name == "words and tags":
        return _tagged(row, shape, identity)
    if shape.name == "minimal pairs":
        return _pair(row, shape, identity)
    fields = _texts(row)
    if shape.choices:
        return _chosen(row, shape, template, identity)
    accepted: tuple[str, ...] = ()
    if shape.name == "context and question":
        told = row.fields.get(shape.answered, "")
        texts = [told] if isinstance(told, str) and not told.startswith("{") else texts_in(told)
        accepted = tuple(dict.fromkeys(text.strip() for text in texts))
        fields[shape.answered] = accepted[0] if accepted else ""
    if shape.name == "prompt, chosen and rejected" and shape.asked[0] not in row.fields:
        fields |= _parted(fields, shape)
    label = None
    if shape.kind in ("classification", "regression"):
        label = fields.get(shape.answered, "").strip()
        if not label:
            raise UserError("it has no label")
        if shape.kind == "regression" and number_of(label) is None:
            raise UserError(f"its value {label!r} is no number")
        fields["label"] = label
    for name in (*template.fields(), *shape.asked):
        if name not in fields:
            raise UserError(f"it has no text in {name}")
    prompt, answer = template.render(fields)
    if chat is not None:
        turns = [Message("user", prompt.strip(), False), Message("assistant", answer.strip(), bool(answer.strip()))]
        if not turns[-1].trained:
            raise UserError("its answer is empty")
        return replace(chat.example(identity, row.line, turns), texts=tuple(fields[name] for name in shape.asked))
    if not answer.strip():
        raise UserError("its answer is empty" if shape.kind == "generation" else "it is empty")
    if shape.asked and not any(fields[name].strip() for name in shape.asked):
        raise UserError(f"its {' and '.join(shape.asked)} is empty")
    if shape.name.startswith("prompt") and prompt and not (prompt[-1].isspace() or answer[0].isspace()):
        answer = f" {answer}"
    choices: tuple[str, ...] = ()
    if shape.name == "prompt and completion":
        label, choices = options_of(row, answer)
        accepted = accepted_of(row)
    parts = (Part(prompt, False), Part(answer, True))[0 if prompt else 1 :]
    asked = tuple(fields[name] for name in shape.asked)
    return Example(identity, parts, label, row.line, asked, choices=choices, accepted=accepted)


def _parted(fields: Mapping[str, str], shape: Shape) -> dict[str, str]:
    """The prompt that both answers begin with, up to its last white space, and the chosen one without it."""
    chosen, rejected = fields.get(shape.answered, ""), fields.get(shape.rejected, "")
    if chosen == rejected:
        raise UserError(f"its {shape.answered} and {shape.rejected} are the same")
    prompt = "".join(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected)))
    prompt = prompt[: max(prompt.rfind(" "), prompt.rfind("\n")) + 1]
    return {shape.asked[0]: prompt, shape.answered: chosen.removeprefix(prompt)}


def _chosen(row: Row, shape: Shape, template: Template, identity: str) -> Example:
    """A question whose answers are all written by the same template, one for each choice."""
    assert shape.choices is not None
    texts = [text.strip() for text in shape.choices.of(row)]
    right = shape.choices.right(str(row.fields.get(shape.answered, "")), texts)
    fields = _texts(row) | {"choices": lettered(texts)}
    for name in shape.asked:
        if not fields.get(name, "").strip():
            raise UserError(f"it has no text in {name}")
    rendered = [
        template.render(fields | {"choice": text, "letter": letter(number)}) for number, text in enumerate(texts)
    ]
    prompt = rendered[right][0]
    parts = (Part(prompt, False), Part(rendered[right][1], True))[0 if prompt else 1 :]
    asked = tuple(fields[name] for name in shape.asked)
    return Example(identity, parts, letter(right), row.line, asked, choices=tuple(answer for _, answer in rendered))


def _pair(row: Row, shape: Shape, identity: str) -> Example:
    fields = _texts(row)
    good, bad = (fields.get(name, "").strip() for name in shape.asked)
    if not good or not bad:
        raise UserError(f"its {shape.asked[1 if good else 0]} is empty")
    return Example(identity, (Part(good, True),), GOOD, row.line, choices=(good, bad))


def _tagged(row: Row, shape: Shape, identity: str) -> Example:
    words, tags = (row.fields.get(name) for name in (shape.asked[0], shape.answered))
    if not isinstance(words, list) or not isinstance(tags, list) or not words:
        raise UserError("it has no list of words and tags")
    if len(words) != len(tags):
        raise UserError(f"it has {len(words)} words and {len(tags)} tags")
    texts, named = tuple(map(str, words)), tuple(map(str, tags))
    parts = (Part(" ".join(texts), False), Part(" ".join(named), True))
    return Example(identity, parts, None, row.line, texts, named)


def _texts(row: Row) -> dict[str, str]:
    """A row's fields as text: lists of sentences joined, other lists left out."""
    texts = {}
    for name, value in row.fields.items():
        if isinstance(value, str):
            texts[name] = value
        elif all(isinstance(item, str) for item in value):
            texts[name] = " ".join(item.strip() for item in value)
    return texts


def _by_size(label: str) -> tuple[bool, float, str]:
    try:
        return False, float(label), label
    except ValueError:
        return True, 0.0, label
