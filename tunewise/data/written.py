"""Examples -> what an encoder-decoder reads and writes: a prompt with the tokenizer's own special tokens, an answer.

Unlike in a decoder the two never touch, so each is tokenised alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunewise.data.encode import Encoded, Ids
from tunewise.data.examples import Example, Ledger, Note
from tunewise.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class SeparateIds(Ids):
    """Ids of prompts as an encoder reads them, and of answers as a decoder writes them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str] = ()) -> None:
        super().__init__(tokenizer)
        self.begin = []

    def alone(self, text: str) -> list[int]:
        if text not in self._known:
            self._known[text] = self.tokenizer(text, verbose=False)["input_ids"]
        return self._known[text]

    def answer(self, prompt_text: str, answer_text: str) -> list[int]:
        """Ids of the answer, whatever was asked, without the end token."""
        ids = self.tokenizer(text_target=answer_text.strip(), verbose=False)["input_ids"]
        return ids[:-1] if ids[-1:] == [self.tokenizer.eos_token_id] else ids


def encode_written(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[list[Encoded], Ledger]:
    """Every example whose answer fits, in order, and the account of all; UserError when none is left.

    A prompt of more than `max_length` tokens loses its beginning; an answer of more is refused.
    """
    ids, end = SeparateIds(tokenizer), tokenizer.eos_token_id
    rows: list[Encoded] = []
    truncated: list[Note] = []
    rejected: list[Note] = []
    for example in examples:
        prompt, answer = ids.prompt(example.prompt), [*ids.answer("", example.answer), end]
        if len(answer) > max_length or len(answer) < 2:
            reason = f"its answer has {len(answer)} tokens, max_length is {max_length}"
            rejected.append(Note(example.line, reason if len(answer) > 1 else "nothing in it is trained"))
            continue
        kept = prompt[-max_length:]
        rows.append(Encoded(example.id, tuple(kept), tuple(answer), len(kept), len(kept) < len(prompt)))
        if len(kept) < len(prompt):
            truncated.append(Note(example.line, f"its prompt was cut to {len(kept)} tokens"))
    if not rows:
        reason = f"line {rejected[0].line}: {rejected[0].reason}" if rejected else "there are no rows"
        raise UserError(f"no row of {len(examples)} can be trained on ({reason})", "raise train.max_length")
    return rows, Ledger(len(examples), len(rows), tuple(truncated), tuple(rejected))
