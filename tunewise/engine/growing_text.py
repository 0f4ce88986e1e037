"""The text of tokens that come one after another, without decoding all of them again at each."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

UNFINISHED = "\ufffd"
"""What stands for a character of which some bytes are not written yet."""
HELD = 12
"""Tokens at the end whose text may still change, and as many before them that it hangs on. Characters of two, three and
four bytes all end at a multiple of it, where each byte is a token."""


class GrowingText:
    """What `tokenizer.decode` makes of tokens to which others are added, special ones aside.

    Only a window of the last tokens is decoded. The text of its first ones, which is settled, is taken off again: so a
    space that tokenizers drop at the beginning of a text stays, and so does a character whose bytes are several tokens.
    The window moves on where that changes nothing of what it shows.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._settled = self._told = ""
        self._first = self._upto = 0
        """Of the window, and of those in it whose text is not settled."""
        self._longest = 3 * HELD

    def of(self, tokens: Sequence[int]) -> str:
        """The text of these, which begin with those of the call before. While bytes of a character are missing it may
        be that of the call before: sentencepiece takes no character of a run of bytes for one until all are."""
        before, text = self._window(tokens, self._first, self._upto)
        if not text.startswith(before):
            if text.endswith(UNFINISHED):
                return self._told
            self._settled, self._first, self._upto = "", 0, 0  # which a token has changed
            before, text = "", self._decoded(tokens)
        rest = text[len(before) :]
        self._told = self._settled + rest
        if len(tokens) - self._first >= self._longest:
            self._move_on(tokens, before, rest)
        return self._told

    def _move_on(self, tokens: Sequence[int], before: str, rest: str) -> None:
        upto = len(tokens) - HELD
        first = upto - HELD
        more = self._decoded(tokens[self._first : upto]).removeprefix(before)
        beginning, text = self._window(tokens, first, upto)
        left = text.removeprefix(beginning)
        if text.startswith(beginning) and left and rest == more + left:
            self._settled, self._first, self._upto, self._longest = self._settled + more, first, upto, 3 * HELD
        else:  # tried again a little later, and ever more seldom
            self._longest = max(self._longest, len(tokens) - self._first) * 9 // 8

    def _window(self, tokens: Sequence[int], first: int, upto: int) -> tuple[str, str]:
        """The text of the tokens from `first` to `upto`, and of all from `first` on."""
        return self._decoded(tokens[first:upto]), self._decoded(tokens[first:])

    def _decoded(self, tokens: Sequence[int]) -> str:
        text = self._tokenizer.decode(tokens, skip_special_tokens=True)
        assert isinstance(text, str)
        return text
