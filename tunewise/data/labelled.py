"""Examples -> what a classifier is given: ids with the tokenizer's own special tokens, or an image, and their labels.

The label is the number of a class, a value, or the number of a tag at the first id of each word.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunewise.data.encode import MASKED, Encoded
from tunewise.data.examples import Example, Ledger, Note
from tunewise.data.task import Task
from tunewise.errors import UserError

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase


def encode_labelled(
    task: Task, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase | None, max_length: int
) -> tuple[list[Encoded], Ledger]:
    """Every example in order, what is longer than `max_length` tokens cut, and the account of all.

    Images need no tokenizer. UserError for examples that hold no text of their own (chat messages).
    """
    if tokenizer is None:
        rows = [Encoded(one.id, (), _label(task, one), 0, truncated=False, image=one.image) for one in examples]
        return rows, Ledger(rows=len(rows), trained=len(rows))
    rows = [_encode(task, example, tokenizer, max_length) for example in examples]
    cut = [
        Note(example.line, f"it was cut to {len(row.ids)} tokens")
        for example, row in zip(examples, rows, strict=True)
        if row.truncated
    ]
    return rows, Ledger(rows=len(rows), trained=len(rows), truncated=tuple(cut))


def _encode(task: Task, example: Example, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
    if not example.texts:
        raise UserError(f"{task.name} holds no texts for a classifier to read", "name its columns: data.text=COLUMN")
    is_cut = False
    found = _tokens(task, example, tokenizer, None)
    if len(found["input_ids"]) > max_length:
        found, is_cut = _tokens(task, example, tokenizer, max_length), True
    ids = tuple(found["input_ids"])
    labels = _tags(task, example, found) if task.kind == "tagging" else _label(task, example)
    return Encoded(example.id, ids, labels, len(ids), is_cut, tuple(found.get("token_type_ids", ())))


def _tokens(task: Task, example: Example, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> BatchEncoding:
    cut = {"truncation": max_length is not None, "max_length": max_length, "verbose": False}
    if task.kind == "tagging":
        return tokenizer(list(example.texts), is_split_into_words=True, **cut)
    one, *other = example.texts
    if other and tokenizer.sep_token_id is None:  # a decoder's, which knows no pairs
        return tokenizer("\n".join(example.texts), **cut)
    return tokenizer(one, "\n".join(other) if other else None, **cut)


def _label(task: Task, example: Example) -> tuple[int | float, ...]:
    assert example.label is not None, example
    return (float(example.label),) if task.kind == "regression" else (task.labels.index(example.label),)


def _tags(task: Task, example: Example, found: BatchEncoding) -> tuple[int, ...]:
    """The tag of each word at its first id, -100 at the others and at special tokens."""
    before: int | None = None
    labels = []
    for word in found.word_ids():
        begins = word is not None and word != before
        labels.append(task.labels.index(example.tags[word]) if begins else MASKED)
        before = word
    return tuple(labels)
