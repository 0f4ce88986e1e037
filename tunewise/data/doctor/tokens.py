"""Checks of the tokens that a base reads and is trained on."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewise.data.doctor.finding import Finding, Shown, share
from tunewise.data.doctor.reading import Flat, PartRead, Reading
from tunewise.data.doctor.rows import Rows
from tunewise.data.encode import MASKED, end_ids
from tunewise.data.streamed import witnesses_of

Numbers = NDArray[np.int64]
MANY_UNKNOWN = 0.01


def unlabelled(flat: Flat) -> Numbers:
    """The rows of which nothing is trained; what the first label says cannot be, as nothing stands before it."""
    first = np.minimum(flat.label_starts[:-1], max(0, len(flat.labels) - 1))
    at_first = (flat.labels[first] != MASKED) if len(flat.labels) else np.zeros(len(first), bool)
    return np.flatnonzero(flat.n_trained - at_first <= 0)


def endless(flat: Flat, ends: Sequence[int]) -> Numbers:
    """The rows that do not end with one of these end tokens, trained."""
    return np.flatnonzero(~np.isin(flat.labels[flat.label_starts[1:] - 1], ends))


def doubled(flat: Flat, begin: int | None, end: int) -> Numbers:
    """The rows that begin with two begin tokens."""
    long = np.flatnonzero(np.diff(flat.starts) > 1)
    if begin is None or begin == end or not len(long):
        return np.zeros(0, np.int64)
    at = flat.starts[long]
    return long[(flat.ids[at] == begin) & (flat.ids[at + 1] == begin)]


def all_labels_masked(found: Rows) -> Iterator[Finding]:
    """Training rows of which no label is trained: the loss of such a row is 0, or NaN."""
    reading, part = _read(found)
    if reading is None or part is None:
        return
    bad = unlabelled(part.flat)
    if reading.way == "classified":  # which reads everything before it tells its first label
        bad = np.flatnonzero(part.flat.n_trained == 0) if found.task.kind == "tagging" else bad[:0]
    if len(bad):
        message = f"{share(len(bad), len(part.encoded))} of train with all labels masked"
        yield Finding("all-labels-masked", "error", message, "give each an answer", _shown(found, part, bad), len(bad))
    if not part.encoded and part.examples:
        reason = part.ledger.rejected[0].reason if part.ledger.rejected else ""
        message = f"no training row of {len(part.examples):,} can be trained on: {reason}"
        remedy = "raise train.max_length, or shorten the rows"
        yield Finding("all-labels-masked", "error", message, remedy, n_rows=len(part.examples))


def end_token_untrained(found: Rows) -> Iterator[Finding]:
    """Answers that do not end with a trained end token: the model would not learn to stop."""
    reading, part = _read(found)
    if reading is None or part is None or reading.way == "classified":
        return
    ends = end_ids(witnesses_of(found.task.train), reading.tokenizer)  # those of chat templates too
    bad = endless(part.flat, [reading.tokenizer.eos_token_id, *ends])
    if len(bad):
        message = f"{share(len(bad), len(part.encoded))} of train without a trained end token"
        remedy = "check the chat template and eos_token in tokenizer_config.json"
        yield Finding("end-token-untrained", "error", message, remedy, _shown(found, part, bad), len(bad))


def doubled_begin_token(found: Rows) -> Iterator[Finding]:
    """Rows that begin with two begin tokens: no text of the base's pretraining did."""
    reading, part = _read(found)
    if reading is None or part is None:
        return
    tokenizer: Any = reading.tokenizer
    bad = doubled(part.flat, tokenizer.bos_token_id, tokenizer.eos_token_id)
    if len(bad):
        message = f"{share(len(bad), len(part.encoded))} of train that begin with two {tokenizer.bos_token}"
        remedy = f"take {tokenizer.bos_token} out of the prompt: the tokenizer puts one there"
        yield Finding("doubled-begin-token", "error", message, remedy, _shown(found, part, bad), len(bad))


def special_tokens_in_text(found: Rows) -> Iterator[Finding]:
    """Rows whose own text is read as special tokens, such as <|endoftext|> left by a scrape."""
    reading, part = _read(found)
    if reading is None or part is None or found.is_chat or not part.encoded:
        return
    tokenizer: Any = reading.tokenizer
    known = [
        each for each in tokenizer.all_special_ids if each not in (tokenizer.unk_token_id, tokenizer.mask_token_id)
    ]
    flat = part.flat
    inside = np.isin(flat.ids, known)
    running = np.concatenate([[0], np.cumsum(inside)])
    n_found = running[flat.starts[1:]] - running[flat.starts[:-1]]
    # every row has those of its own frame (begin, end, between two texts), which the row with fewest shows
    bad = np.flatnonzero(n_found > n_found.min())
    if len(bad):
        worst = int(bad[np.argmax(n_found[bad])])
        own = np.unique(flat.ids[flat.starts[worst] + 1 : flat.starts[worst + 1] - 1])
        which = ", ".join(tokenizer.decode([token]) for token in own if token in known)
        message = f"{share(len(bad), len(part.encoded))} of train with special tokens as text ({which})"
        remedy = "remove them from the rows: a base reads them as its own marks"
        yield Finding("special-tokens-in-text", "warning", message, remedy, _shown(found, part, bad), len(bad))


def unknown_tokens(found: Rows) -> Iterator[Finding]:
    """Characters that the tokenizer has no token for."""
    reading, part = _read(found)
    unknown = None if reading is None else reading.tokenizer.unk_token_id
    if reading is None or part is None or unknown is None or not part.encoded:
        return
    flat = part.flat
    running = np.concatenate([[0], np.cumsum(flat.ids == unknown)])
    bad = np.flatnonzero(running[flat.starts[1:]] - running[flat.starts[:-1]])
    if len(bad) and unknown != reading.tokenizer.eos_token_id:
        n_tokens = int(running[-1])
        told = share(n_tokens, len(flat.ids), "token")
        message = f"{share(len(bad), len(part.encoded))} of train with characters unknown to the tokenizer, {told}"
        severity = "warning" if n_tokens > MANY_UNKNOWN * len(flat.ids) else "note"
        yield Finding(
            "unknown-tokens",
            severity,
            message,
            "take a base that was trained on such text",
            _shown(found, part, bad),
            len(bad),
        )


def template_differs(found: Rows) -> Iterator[Finding]:
    """Rows that are asked in another way than the base was tuned to be asked."""
    reading = found.reading
    if reading is None or reading.way != "one sequence" or found.is_text:
        return
    has_template = bool(reading.tokenizer.chat_template)
    if found.task.chat is not None and not has_template:
        message = f"{reading.model} has no chat template: turns are written by {found.task.chat.name}"
        yield Finding("template-differs", "note", message, "nothing, for a base that was never tuned to chat")
    elif has_template and not found.is_chat:
        severity = "warning" if found.task.kind == "generation" else "note"
        message = f"{reading.model} has a chat template, and these rows are asked as {found.task.template.prompt!r}"
        remedy = "of a base tuned to chat: data.template=own asks by its own"
        yield Finding("template-differs", severity, message, remedy)


def pad_is_end(found: Rows) -> Iterator[Finding]:
    """A padding token that is the end token: harmful where labels are masked by token, and harmless here."""
    reading = found.reading
    if reading is None or reading.way == "classified":
        return
    tokenizer = reading.tokenizer
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        message = f"the padding token is the end token {tokenizer.eos_token}: harmless here"
        remedy = "nothing: labels are masked by position, so that end tokens stay trained"
        yield Finding("pad-is-end", "note", message, remedy)


def _read(found: Rows) -> tuple[Reading | None, PartRead | None]:
    return found.reading, None if found.reading is None else found.reading.parts.get("train")


def _shown(found: Rows, part: PartRead, bad: Sequence[int] | Numbers) -> tuple[Shown, ...]:
    return found.shown([part.row_of[part.encoded[int(each)].id] for each in bad[:3]])
