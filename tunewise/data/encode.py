"""Examples -> token ids and label masks.  Training and evaluation cut prompt and answer by the same function.

answer ids = tok(prompt + answer)[len(tok(prompt)):] where tok(prompt) is a prefix of tok(prompt + answer), and the
answer tokenised alone where the two merge across the border. So the prompt's ids never depend on the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunewise.data.borders import owners
from tunewise.data.bulk import ids_of
from tunewise.data.examples import Example, Ledger, Note
from tunewise.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MASKED = -100
CHUNK = 2_000
"""So many examples are cut into tokens at a time: no more texts and ids than theirs are held beside the rows."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One example as ids.

    For a decoder, labels are the ids where trained and -100 elsewhere, not shifted; both have the same length. For an
    encoder-decoder, ids are what the encoder reads and labels what the decoder writes. For a classifier, labels are
    the number of the class, the value, or the number of each id's tag. `prompt_length` counts the ids before the last
    trained part; `truncated` says that something was cut off.
    """

    id: str
    ids: tuple[int, ...]
    labels: tuple[int | float, ...]
    prompt_length: int
    truncated: bool
    segments: tuple[int, ...] = ()
    """Which of two texts each id belongs to, where the tokenizer says so."""
    image: str = ""
    """The path of the image that is read instead of ids."""


class Rejected(UserError):
    """This one example cannot be trained on; encode_all writes it into the ledger and goes on."""


Outcome = tuple[int, Encoded | Rejected]
"""The line of an example, and what has become of it."""


def encode_prompt(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of a prompt, with the begin token iff this tokenizer puts one and the text does not already start with it."""
    return Ids(tokenizer).prompt(text)


def encode_answer(prompt_text: str, answer_text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of an answer as they continue this prompt's ids, without begin and end tokens."""
    return Ids(tokenizer).answer(prompt_text, answer_text)


def encode(example: Example, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
    """Ids and labels of one example, at most `max_length` of them, ended by a trained end-of-sequence token.

    A prompt that is too long loses its beginning (the begin token stays). Raises Rejected when nothing is trained or
    when the answer and its end do not fit.
    """
    return _encode(example, Ids(tokenizer), _end(tokenizer), max_length)


def encode_all(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[list[Encoded], Ledger]:
    """Every example that can be trained on, in order, and the account of all; UserError when none is left."""
    account = Account(ANSWERS)
    rows = list(account.kept(encode_each(examples, tokenizer, max_length)))
    return rows, account.ledger()


def encode_each(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Iterator[Outcome]:
    """What `encode` makes of one example after the other, or why it refuses; `CHUNK` of them are cut in one go."""
    end = _end(tokenizer)
    for start in range(0, len(examples), CHUNK):
        chunk = examples[start : start + CHUNK]
        # the tokenizer is many times faster on a list than on one text after the other
        prompts = [example.prompt for example in chunk]
        wholes = [prompt + each.answer + each.end for prompt, each in zip(prompts, chunk, strict=True)]
        ids = Ids(tokenizer, [*prompts, *wholes])
        for example in chunk:
            try:
                yield example.line, _encode(example, ids, end, max_length)
            except Rejected as error:
                yield example.line, error


@dataclass(frozen=True)
class Told:
    """How an account words what becomes of its rows."""

    none_left: str = "no row"
    hint: str = ""
    """What to do where none is left; "" takes what the first one that was refused says."""
    cut: str = "its prompt"


ANSWERS = Told("all labels are masked: no row")


class Account:
    """What becomes of rows while they are encoded."""

    def __init__(self, told: Told) -> None:
        self._told, self._hint = told, told.hint
        self.rows = self.trained = 0
        self.line = 0  # of the row that was kept last
        self.truncated: list[Note] = []
        self.rejected: list[Note] = []

    def kept(self, outcomes: Iterable[Outcome]) -> Iterator[Encoded]:
        """The rows that are left, in order."""
        for line, found in outcomes:
            self.rows += 1
            if isinstance(found, Rejected):
                self.rejected.append(Note(line, found.message))
                self._hint = self._hint or found.hint
                continue
            if found.truncated:
                self.truncated.append(Note(line, words_of_cut(self._told.cut, found.prompt_length)))
            self.trained += 1
            self.line = line
            yield found

    def ledger(self) -> Ledger:
        """The account of all rows seen; UserError where none was kept."""
        if not self.trained:
            first = self.rejected[0] if self.rejected else None
            reason = f"line {first.line}: {first.reason}" if first else "there are no rows"
            raise UserError(f"{self._told.none_left} of {self.rows} can be trained on ({reason})", self._hint)
        return Ledger(self.rows, self.trained, tuple(self.truncated), tuple(self.rejected))


def words_of_cut(what: str, n_left: int) -> str:
    """The note on a row that lost something."""
    return f"{what} was cut to {n_left} tokens"


class Ids:
    """Ids of texts by one tokenizer's conventions, those of the texts given at first made in one go."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str] = ()) -> None:
        self.tokenizer = tokenizer
        self._known: dict[str, list[int]] = {"": []}
        wanted = list(dict.fromkeys(text for text in texts if text))
        if wanted:
            self._known.update(zip(wanted, ids_of(wanted, tokenizer)))
        self.begin: list[int] = []
        if tokenizer.bos_token_id is not None:
            own = tokenizer("a", add_special_tokens=True, verbose=False)["input_ids"]
            self.begin = [tokenizer.bos_token_id] if own[:1] == [tokenizer.bos_token_id] else []

    def alone(self, text: str) -> list[int]:
        """Ids of the text without begin and end tokens."""
        if text not in self._known:
            self._known[text] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return self._known[text]

    def prompt(self, text: str) -> list[int]:
        """Ids of the text behind the begin token, where there is one."""
        ids = self.alone(text)
        return list(ids) if ids[: len(self.begin)] == self.begin else self.begin + ids

    def answer(self, prompt_text: str, answer_text: str) -> list[int]:
        """Ids of the answer as they go on from the prompt's."""
        prompt, whole = self.alone(prompt_text), self.alone(prompt_text + answer_text)
        if whole[: len(prompt)] == prompt:
            return whole[len(prompt) :]
        # behind a line feed, since sentencepiece-like tokenizers put a space before what stands at the very beginning
        feed, behind = self.alone("\n"), self.alone("\n" + answer_text)
        return behind[len(feed) :] if behind[: len(feed)] == feed else list(self.alone(answer_text))


def _encode(example: Example, ids: Ids, end: int, max_length: int) -> Encoded:
    if not example.answer:
        raise Rejected("nothing in it is trained", "give it an answer")
    prompt = ids.prompt(example.prompt)
    answer = ids.answer(example.prompt, example.answer + example.end)
    if not example.end and answer[-1:] != [end]:
        answer = [*answer, end]
    labels = _prompt_labels(example, prompt, ids)
    room = max_length - len(answer)
    # the loss predicts each id from those before it: an answer needs at least one id to start from
    least = min(len(prompt), len(ids.begin) + 1)
    if room < least:
        raise Rejected(
            f"its answer has {len(answer)} tokens, max_length is {max_length}",
            f"raise train.max_length to {len(answer) + least} or more, or shorten the row",
        )
    truncated = len(prompt) > room
    if truncated:
        cut = len(prompt) - room + len(ids.begin)
        prompt, labels = ids.begin + prompt[cut:], [MASKED] * len(ids.begin) + labels[cut:]
    return Encoded(
        id=example.id,
        ids=(*prompt, *answer),
        labels=(*labels, *answer),
        prompt_length=len(prompt),
        truncated=truncated,
    )


def _prompt_labels(example: Example, prompt: list[int], ids: Ids) -> list[int]:
    """Labels of the prompt's ids: those of earlier trained parts (an assistant's first turns), -100 elsewhere.

    A token that straddles a border belongs to the part that holds its last character. A begin token that the
    tokenizer puts, and no part holds, is not trained.
    """
    last = max(index for index, part in enumerate(example.parts) if part.trained)
    earlier = example.parts[:last]
    if not any(part.trained for part in earlier):
        return [MASKED] * len(prompt)
    own = ids.alone(example.prompt)
    numbers = owners([part.text for part in earlier], own, ids.tokenizer)
    labels = [token if earlier[number].trained else MASKED for token, number in zip(own, numbers)]
    return [MASKED] * (len(prompt) - len(own)) + labels


def end_ids(examples: Iterable[Example], tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The ids that end these answers: the tokenizer's end token, and what chat templates end a turn with."""
    ends = {example.end for example in examples if example.end}
    found = [tokenizer(end, add_special_tokens=False, verbose=False)["input_ids"][-1] for end in sorted(ends)]
    return tuple(dict.fromkeys([*found, _end(tokenizer)]))


def _end(tokenizer: PreTrainedTokenizerBase) -> int:
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has no end-of-sequence token", "set eos_token in its tokenizer_config.json")
    return tokenizer.eos_token_id
