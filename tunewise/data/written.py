"""Examples -> what an encoder-decoder reads and writes: a prompt with the tokenizer's own special tokens, an answer.

Unlike in a decoder the two never touch, so each is tokenised alone, and one answer cannot be read in the same text that
the next one is trained in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tunewise.data.encode import CHUNK, Encoded, Ids, Outcome, Rejected, Told
from tunewise.data.examples import Example
from tunewise.data.trained_on import each_answer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WRITTEN = Told(hint="raise train.max_length")


class SeparateIds(Ids):
    """Ids of prompts as an encoder reads them, and of answers as a decoder writes them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str] = ()) -> None:
        super().__init__(tokenizer)
        self.begin = []
        self._answers: dict[str, list[int]] = {}

    def cut(self, prompts: Sequence[str], answers: Sequence[str]) -> None:
        """Make the ids of these in one go, which is many times faster than one after the other."""
        asked = [text for text in dict.fromkeys(prompts) if text]
        if asked:
            self._known.update(zip(asked, self.tokenizer(asked, verbose=False)["input_ids"], strict=True))
        told = list(dict.fromkeys(text.strip() for text in answers))
        if told:
            made = self.tokenizer(text_target=told, verbose=False)["input_ids"]
            self._answers.update(zip(told, made, strict=True))

    def alone(self, text: str) -> list[int]:
        if text not in self._known:
            self._known[text] = self.tokenizer(text, verbose=False)["input_ids"]
        return self._known[text]

    def answer(self, prompt_text: str, answer_text: str) -> list[int]:
        """Ids of the answer, whatever was asked, without the end token."""
        text = answer_text.strip()
        ids = self._answers.get(text)
        if ids is None:
            ids = self.tokenizer(text_target=text, verbose=False)["input_ids"]
        return ids[:-1] if ids[-1:] == [self.tokenizer.eos_token_id] else ids


def written_each(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Iterator[Outcome]:
    """One answer after the other, which has to fit with its end; a prompt that is longer loses its beginning.

    An example with several answers, a conversation, is as many rows, each answer behind what was said before it.
    """
    end = tokenizer.eos_token_id
    for start in range(0, len(examples), CHUNK):
        chunk = [one for example in examples[start : start + CHUNK] for one in each_answer(example)]
        ids = SeparateIds(tokenizer)
        ids.cut([example.prompt for example in chunk], [example.answer for example in chunk])
        for example in chunk:
            prompt, answer = ids.prompt(example.prompt), [*ids.answer("", example.answer), end]
            if len(answer) > max_length or len(answer) < 2:
                reason = f"its answer has {len(answer)} tokens, max_length is {max_length}"
                yield example.line, Rejected(reason if len(answer) > 1 else "nothing in it is trained")
                continue
            kept = prompt[-max_length:]
            yield example.line, Encoded(example.id, tuple(kept), tuple(answer), len(kept), len(kept) < len(prompt))
