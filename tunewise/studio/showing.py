"""What a page shows of a sitting, as html: who is asked, what each said, what was asked before."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from tunewise.errors import UserError
from tunewise.run.speakers import Said
from tunewise.studio.sitting import Turns

MOST_SHARES = 6
"""Options that are shown of many, the most probable ones; a right one among the rest is shown too."""
MOST_BEFORE = 50
"""Earlier questions that are listed."""
TONES = 10
TEMPLATES = Environment(
    loader=PackageLoader("tunewise.studio"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
    lstrip_blocks=True,
)  # fmt: skip


@dataclass(frozen=True)
class Column:
    """One who answers: its name, the mark and tone that the report gives it, and figures of its run."""

    name: str
    mark: str = ""
    tone: int = 0
    badge: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Heading:
    """What stands above all."""

    title: str
    facts: str
    verdict: str = ""
    reason: str = ""
    report: Path | None = None
    """The page of the comparison."""


@dataclass(frozen=True)
class Share:
    """An option with its probability, in per cent."""

    option: str
    percent: float
    is_answer: bool
    is_right: bool

    @property
    def told(self) -> str:
        return "< 0.1" if 0 < self.percent < 0.1 else f"{self.percent:.1f}"


def shares_of(said: Said, right: Sequence[str] = ()) -> tuple[list[Share], int]:
    """The options in the order of the task, of many the most probable ones; and how many are left out."""
    ranked = sorted(said.probabilities, key=said.probabilities.__getitem__, reverse=True)
    kept = {*ranked[:MOST_SHARES], *right}
    found = [
        Share(option, 100 * share, option == said.text, option in right)
        for option, share in said.probabilities.items()
        if option in kept
    ]
    return found, len(said.probabilities) - len(found)


def heading_html(heading: Heading) -> str:
    """Title and verdict."""
    return TEMPLATES.get_template("heading.html.jinja").render(heading=heading)


def columns_html(columns: Sequence[Column], turns: Turns, *, is_conversation: bool) -> str:
    """Those who are asked, each with its answer to the last question, or with the whole conversation."""
    chosen = [turn.marks() for turn in turns if turn.drawn and turn.drawn.is_chosen]
    tallies = {column.name: [marks.get(column.name) for marks in chosen] for column in columns}
    return TEMPLATES.get_template("columns.html.jinja").render(
        columns=columns,
        turns=turns if is_conversation else turns[-1:],
        last=turns[-1] if turns else None,
        is_conversation=is_conversation,
        tallies={name: (marks.count(True), len(marks)) for name, marks in tallies.items()},
        shares_of=shares_of,
    )


def before_html(columns: Sequence[Column], turns: Turns) -> str:
    """The questions before the last, with who said what to them; "" where there was none."""
    earlier = turns[:-1][::-1][:MOST_BEFORE]
    return TEMPLATES.get_template("before.html.jinja").render(columns=columns, turns=earlier) if earlier else ""


def error_html(error: UserError) -> str:
    """What was wrong, and what to do."""
    return f'<div class="wrong-question" role="alert"><b>{escape(error.message)}</b> {escape(error.hint)}</div>'
