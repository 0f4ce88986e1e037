"""Examples -> token ids and label masks.  Training and evaluation cut prompt and answer by the same function.

answer ids = tok(prompt + answer)[len(tok(prompt)):] where tok(prompt) is a prefix of tok(prompt + answer), and the
answer tokenised alone where the two merge across the border. So the prompt's ids never depend on the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

from tunewise.data.examples import Example, Ledger, Note
from tunewise.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MASKED = -100


@dataclass(frozen=True)
class Encoded:
    """One example as ids; labels are the ids where trained and -100 elsewhere, not shifted; both have the same length.

    `prompt_length` counts the ids before the last trained part; `truncated` says that the prompt lost its beginning.
    """

    id: str
    ids: tuple[int, ...]
    labels: tuple[int, ...]
    prompt_length: int
    truncated: bool


class Rejected(UserError):
    """This one example cannot be trained on; encode_all writes it into the ledger and goes on."""


def encode_prompt(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of a prompt, with the begin token iff this tokenizer puts one and the text does not already start with it."""
    begin = _begin(tokenizer)
    ids = _tokenise(text, tokenizer)
    return ids if ids[: len(begin)] == begin else begin + ids


def encode_answer(prompt_text: str, answer_text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of an answer as they continue this prompt's ids, without begin and end tokens."""
    prompt = encode_prompt(prompt_text, tokenizer)
    whole = encode_prompt(prompt_text + answer_text, tokenizer)
    if whole[: len(prompt)] == prompt:
        return whole[len(prompt) :]
    # Behind a line feed, since sentencepiece-like tokenizers put a space before what stands at the very beginning.
    feed = _tokenise("\n", tokenizer)
    behind = _tokenise("\n" + answer_text, tokenizer)
    return behind[len(feed) :] if behind[: len(feed)] == feed else _tokenise(answer_text, tokenizer)


def encode(example: Example, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
    """Ids and labels of one example, at most `max_length` of them, ended by a trained end-of-sequence token.

    A prompt that is too long loses its beginning (the begin token stays). Raises Rejected when nothing is trained or
    when the answer and its end do not fit.
    """
    if not example.answer:
        raise Rejected("nothing in it is trained", "give it an answer")
    end = tokenizer.eos_token_id
    if end is None:
        raise UserError("the tokenizer has no end-of-sequence token", "set eos_token in its tokenizer_config.json")
    prompt = encode_prompt(example.prompt, tokenizer)
    answer = encode_answer(example.prompt, example.answer, tokenizer)
    if answer[-1:] != [end]:
        answer = [*answer, end]
    labels = _prompt_labels(example, prompt, tokenizer)
    begin = _begin(tokenizer)
    room = max_length - len(answer)
    # the loss predicts each id from those before it: an answer needs at least one id to start from
    if room < min(len(prompt), len(begin) + 1):
        raise Rejected(
            f"its answer has {len(answer)} tokens, max_length is {max_length}",
            f"raise train.max_length to {len(answer) + len(begin) + 1} or more, or shorten the row",
        )
    truncated = len(prompt) > room
    if truncated:
        cut = len(prompt) - room + len(begin)
        prompt, labels = begin + prompt[cut:], [MASKED] * len(begin) + labels[cut:]
    return Encoded(
        id=example.id,
        ids=(*prompt, *answer),
        labels=(*labels, *answer),
        prompt_length=len(prompt),
        truncated=truncated,
    )


def encode_all(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[list[Encoded], Ledger]:
    """Every example that can be trained on, in order, and the account of all; UserError when none is left."""
    kept: list[Encoded] = []
    truncated: list[Note] = []
    rejected: list[Note] = []
    hint = ""
    for example in examples:
        try:
            encoded = encode(example, tokenizer, max_length)
        except Rejected as error:
            rejected.append(Note(example.line, error.message))
            hint = hint or error.hint
            continue
        kept.append(encoded)
        if encoded.truncated:
            truncated.append(Note(example.line, f"its prompt was cut to {encoded.prompt_length} tokens"))
    if not kept:
        reason = f"line {rejected[0].line}: {rejected[0].reason}" if rejected else "there are no rows"
        raise UserError(f"all labels are masked: no row of {len(examples)} can be trained on ({reason})", hint)
    ledger = Ledger(rows=len(examples), trained=len(kept), truncated=tuple(truncated), rejected=tuple(rejected))
    return kept, ledger


def _prompt_labels(example: Example, prompt: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Labels of the prompt's ids: those of earlier trained parts (an assistant's first turns), -100 elsewhere.

    A border between parts lies where the ids of the text up to it stop agreeing with the prompt's; a token that
    straddles a border belongs to the part behind it.
    """
    labels = [MASKED] * len(prompt)
    last = max(index for index, part in enumerate(example.parts) if part.trained)
    text = ""
    start = len(_begin(tokenizer))
    for part in example.parts[:last]:
        text += part.text
        if not any(earlier.trained for earlier in example.parts[:last]):
            break
        ids = encode_prompt(text, tokenizer)
        stop = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ids, prompt)))
        if part.trained:
            labels[start:stop] = prompt[start:stop]
        start = max(start, stop)
    return labels


def _begin(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """[begin token] where the tokenizer's own convention puts one, else []."""
    begin = tokenizer.bos_token_id
    if begin is None:
        return []
    own = tokenizer("a", add_special_tokens=True, verbose=False)["input_ids"]
    return [begin] if own[:1] == [begin] else []


def _tokenise(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) if text else []
