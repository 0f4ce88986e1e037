"""A question to a teacher, and what came back."""

import hashlib
import json
from dataclasses import dataclass

TEMPLATE_TOKENS = 64
"""At most so many tokens does a chat template put around one message."""


@dataclass(frozen=True)
class Request:
    """One question to a teacher. Its key is its place in the run, so that it is the same request after a restart."""

    key: str
    """Such as `2/instances/17`."""
    text: str
    max_tokens: int
    stops: tuple[str, ...] = ()
    temperature: float = 0.0
    """0 takes the most probable token."""
    top_p: float = 1.0

    @property
    def most_tokens(self) -> int:
        """The most tokens that it can use: a token covers a byte at least."""
        return len(self.text.encode("utf-8", "surrogatepass")) + TEMPLATE_TOKENS + self.max_tokens

    def digest(self, teacher: str) -> str:
        """What tells this question to this teacher from every other."""
        told = [teacher, self.key, self.text, self.max_tokens, self.stops, self.temperature, self.top_p]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Reply:
    """What came back, and what it took."""

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    sent: int = 1
    """How often the request was sent until it was answered."""
    was_cut: bool = False
    """The answer ended because `max_tokens` were written."""
    refused: str = ""
    """Why the endpoint will not answer this request, whenever it is asked."""
    estimated: bool = False
    """The endpoint did not count the tokens; four bytes are taken for one."""
