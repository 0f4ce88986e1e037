"""What a generation run is asked for: what decides its rows, and what only decides how far it goes."""

from dataclasses import dataclass, field
from typing import Literal

from tunewise.config import Strict
from tunewise.teacher.account import Prices
from tunewise.teacher.filters import BEYOND_TEXT


class Wanted(Strict):
    """What decides the rows, written beside them: a folder goes on only with the same."""

    kind: Literal["self-instruct", "one step", "outputs"] = "self-instruct"
    teacher: str = ""
    """The model's name; this and the next two are filled in by the run."""
    source: str = ""
    """SHA-256 of the file of seed tasks, or of prompts."""
    template: str = ""
    """Version of the texts by which the teacher is asked."""
    seed: int = 0
    temperature: float = 0.7
    """Of new instructions; outputs are the most probable ones. As in Self-Instruct, appendix A.2."""
    top_p: float = 0.95
    novelty: float = 0.7
    """An instruction with a ROUGE-L of this with a kept one is not new."""
    keywords: tuple[str, ...] = BEYOND_TEXT
    """Words that no instruction may hold."""
    thinking_tokens: int = 0
    """What a reasoning model may write before each answer."""


@dataclass(frozen=True)
class Extent:
    """How far a run goes, and what it may cost; can be another each time it goes on."""

    n: int | None = None
    """Rows, those of earlier processes included; None is 500, or all prompts that are there."""
    max_requests: int | None = None
    max_tokens: int | None = None
    prices: Prices = field(default_factory=Prices)
