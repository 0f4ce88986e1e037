"""A text that grows, handed on in pieces of which none has to be taken back."""

from collections.abc import Sequence

from tunewise.engine.growing_text import UNFINISHED


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
        if self._told.startswith(text):
            return ""
        n_told = len(self._told)
        if not text.startswith(self._told):
            # a token has changed the text of one before it: what was told stays, and what follows the change is told
            n_told = next(i for i, (new, old) in enumerate(zip(text, self._told, strict=False)) if new != old)
        self._told = text
        return text[n_told:]


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of a text may be the beginning of a stop."""
    return next((n for n in range(min(len(stop), len(text)), 0, -1) if text.endswith(stop[:n])), 0)
