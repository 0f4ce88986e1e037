"""Examples -> what a classifier is given: ids with the tokenizer's own special tokens, or an image, and their labels.

The label is the number of a class, a value, or the number of a tag at the first id of each word.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tunewise.data.bulk import Words, WordsRead
from tunewise.data.encode import CHUNK, MASKED, Encoded, Outcome, Told
from tunewise.data.examples import Example
from tunewise.data.task import Task
from tunewise.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

READ = Told(cut="it")


def labelled_each(
    task: Task, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase | None, max_length: int
) -> Iterator[Outcome]:
    """One example after the other, what is longer than `max_length` tokens cut; every one can be trained on.

    Images need no tokenizer. UserError for examples that hold no text of their own (chat messages).
    """
    words = None
    for start in range(0, len(examples), CHUNK):
        chunk = examples[start : start + CHUNK]
        if tokenizer is None:
            for one in chunk:
                yield one.line, Encoded(one.id, (), _label(task, one), 0, truncated=False, image=one.image)
        elif task.kind == "tagging":
            rows = [one.texts for one in chunk]
            words = words or Words(tokenizer, rows)
            for one, read in zip(chunk, words.read(rows), strict=True):
                yield one.line, _tagged(task, one, read, tokenizer, max_length)
        else:
            for one, found in zip(chunk, _all_tokens(task, chunk, tokenizer), strict=True):
                is_cut = len(found["input_ids"]) > max_length
                if is_cut:
                    cut = {"truncation": True, "max_length": max_length, "verbose": False}
                    found = tokenizer(*_given(one, tokenizer), **cut)
                ids, segments = tuple(found["input_ids"]), tuple(found.get("token_type_ids", ()))
                yield one.line, Encoded(one.id, ids, _label(task, one), len(ids), is_cut, segments)


def _all_tokens(task: Task, chunk: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> Iterator[Any]:
    """What the tokenizer makes of each example, by name, in one go, which is many times faster."""
    if not all(example.texts for example in chunk):
        raise UserError(f"{task.name} holds no texts for a classifier to read", "name its columns: data.text=COLUMN")
    given = [_given(example, tokenizer) for example in chunk]
    n_pairs = sum(other is not None for _, other in given)
    if n_pairs not in (0, len(given)):
        yield from (tokenizer(*each, verbose=False) for each in given)
        return
    pairs = [other for _, other in given] if n_pairs else None
    found = tokenizer([one for one, _ in given], pairs, verbose=False)
    for number in range(len(chunk)):
        yield {name: values[number] for name, values in found.items()}


def _tagged(
    task: Task, example: Example, read: WordsRead, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Encoded:
    """The tag of each word at its first id, -100 at the others and at special tokens."""
    is_cut = len(read.ids) > max_length
    ids, words, segments = read.ids, read.words, read.segments
    if is_cut:
        cut = {"truncation": True, "max_length": max_length, "verbose": False}
        found = tokenizer(list(example.texts), is_split_into_words=True, **cut)
        ids, words, segments = found["input_ids"], found.word_ids(), found.get("token_type_ids", ())
    labels, before = [MASKED] * len(ids), None
    for place, word in enumerate(words):
        if word is not None and word != before:
            labels[place] = task.labels.index(example.tags[word])
        before = word
    return Encoded(example.id, tuple(ids), tuple(labels), len(ids), is_cut, tuple(segments))


def _given(example: Example, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str | None]:
    """The text that is read, and the one behind it where there is one."""
    one, *other = example.texts
    if other and tokenizer.sep_token_id is None:  # a decoder's, which knows no pairs
        return "\n".join(example.texts), None
    return one, "\n".join(other) or None


def _label(task: Task, example: Example) -> tuple[int | float, ...]:
    assert example.label is not None, example
    return (float(example.label),) if task.kind == "regression" else (task.labels.index(example.label),)
