"""How a row's fields become a prompt and an answer."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from tunewise.errors import UserError, nearest

_SLOT = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")


@dataclass(frozen=True)
class Template:
    """Two texts with fields in braces, such as "{text}\\nLabel:" and " {label}"; {{ and }} are braces themselves.

    Braces in the data stay what they are. A line that is nothing but one slot disappears where its field is empty.
    """

    prompt: str
    answer: str
    words: Mapping[str, str] = field(default_factory=dict)
    """What is written for a label; one that is not among them is written as it is."""

    def fields(self) -> tuple[str, ...]:
        """The names in braces, each once, in the order of their first use."""
        names = [match[1] for match in _SLOT.finditer(self.prompt + self.answer) if match[1] is not None]
        return tuple(dict.fromkeys(names))

    def render(self, fields: Mapping[str, str]) -> tuple[str, str]:
        """(prompt, answer) of one row; UserError for a slot that is no field of it, naming the nearest."""
        return fill(self.prompt, fields), fill(self.answer, fields)

    def option(self, label: str) -> str:
        """The answer that tells this label."""
        return fill(self.answer, {"label": self.words.get(label, label)})

    @property
    def vanishing(self) -> tuple[str, ...]:
        """The fields of the prompt of which nothing is written where they are empty: each has a line for itself."""
        return tuple(line[1:-1] for line in self.prompt.split("\n") if _only_slot(line))

    @property
    def end(self) -> str:
        """What stands behind the last field of the prompt, without the white space it begins with: "Label:"."""
        slots = [match.end() for match in _SLOT.finditer(self.prompt) if match[1] is not None]
        return fill(self.prompt[max(slots, default=0) :], {}).lstrip()


def fill(template: str, fields: Mapping[str, str]) -> str:
    """The template with its slots filled; UserError for a slot without a field."""

    def value(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0][0]
        if match[1] not in fields:
            guess = nearest(match[1], fields)
            known = ", ".join(f"{{{name}}}" for name in fields)
            raise UserError(
                f"the template names {{{match[1]}}}, which is no column",
                (f"did you mean {{{guess}}}? " if guess else "") + f"known: {known}",
            )
        return fields[match[1]]

    lines = template.split("\n")
    kept = [line for line in lines if not (_only_slot(line) and not fields.get(line[1:-1], "x"))]
    return "\n".join(_SLOT.sub(value, line) for line in kept)


def _only_slot(line: str) -> bool:
    match = _SLOT.fullmatch(line)
    return match is not None and match[1] is not None
