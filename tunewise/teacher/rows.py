"""The rows of a set that a teacher wrote, each with where it comes from."""

from dataclasses import dataclass
from typing import Any

from tunewise.teacher.prompts import VERSION


@dataclass(frozen=True)
class Row:
    """An instruction, its input (may be empty) and output, in columns that `--data` knows, and where it comes from."""

    instruction: str
    input: str
    output: str
    teacher: str
    request: str
    """The key of the request that the output comes from; the journal has its answer."""
    shown: tuple[str, ...] = ()
    """Ids of the seed tasks and rows that the teacher was shown when it wrote the instruction."""
    is_classification: bool | None = None

    def plain(self) -> dict[str, Any]:
        """As a line of the set."""
        origin: dict[str, Any] = {"teacher": self.teacher, "request": self.request, "template": VERSION}
        if self.shown:
            origin["shown"] = list(self.shown)
        if self.is_classification is not None:
            origin["is_classification"] = self.is_classification
        return {"instruction": self.instruction, "input": self.input, "output": self.output, "origin": origin}
