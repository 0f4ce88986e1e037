"""A text that grows, handed on in pieces of which none has to be taken back."""

from collections.abc import Sequence

UNFINISHED = "\ufffd"
"""What stands for a character of which some bytes are not written yet."""


class Growing:
    """What of an answer was handed on. White space is held back until something follows it, where it `is_stripped`."""

    def __init__(self, stops: Sequence[str], is_stripped: bool) -> None:
        self._stops, self._is_stripped = stops, is_stripped
        self._told = ""

    def piece(self, so_far: str) -> str:
        """What can be told of a text that goes on."""
        text = so_far.rstrip(UNFINISHED)
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        return self._rest(text[: len(text) - held])

    def last(self, text: str) -> str:
        """What is left of a text that has ended."""
        return self._rest(text)

    def _rest(self, text: str) -> str:
        text = text.strip() if self._is_stripped else text
        if not text.startswith(self._told):  # a token that has changed the text of one before it
            return ""
        piece = text[len(self._told) :]
        self._told = text
        return piece


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of a text may be the beginning of a stop."""
    return next((n for n in range(min(len(stop), len(text)), 0, -1) if text.endswith(stop[:n])), 0)
