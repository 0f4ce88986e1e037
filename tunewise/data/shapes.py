"""Which columns mean what: a shape, the template that asks by it, and the sentence that tells it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tunewise.data.choices import Choices
from tunewise.data.config import DataConfig
from tunewise.data.talk import Talk, beside
from tunewise.data.template import Template
from tunewise.errors import UserError, unknown

Kind = Literal[
    "classification", "regression", "tagging", "generation", "multiple_choice", "minimal_pairs", "language_modelling"
]

IN_CHOICES = ("choices", "choice", "letter")
"""Slots of a template of multiple choice that are no columns: all choices with their letters, and one of them."""


@dataclass(frozen=True)
class Shape:
    """What a file's rows are.

    `asked` and `answered` are columns; of plain text the second is empty. Of minimal pairs `asked` is the good sentence
    and the bad one. Where answers are chosen and rejected without a column of prompts, the prompt is what both begin
    with.
    """

    name: Literal[
        "text and label",
        "pair and label",
        "text and value",
        "pair and value",
        "words and tags",
        "instruction and response",
        "prompt and completion",
        "prompt, chosen and rejected",
        "context and question",
        "question and choices",
        "minimal pairs",
        "messages",
        "text",
    ]
    asked: tuple[str, ...]
    answered: str = ""
    choices: Choices | None = None
    """Of questions and choices."""
    talk: Talk | None = None
    """Of messages."""
    rejected: str = ""
    """The column of answers that are worse than those trained; they are kept in the rows."""
    desirable: str = ""
    """The column that says whether an answer is desirable; rows whose is not are rejected."""

    @property
    def kind(self) -> Kind:
        match self.name:
            case "text and label" | "pair and label":
                return "classification"
            case "text and value" | "pair and value":
                return "regression"
            case "words and tags":
                return "tagging"
            case "question and choices":
                return "multiple_choice"
            case "minimal pairs":
                return "minimal_pairs"
            case "text":
                return "language_modelling"
            case _:
                return "generation"


def number_of(text: str) -> float | None:
    """The finite number that this text writes out, or None."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def template_of(shape: Shape, config: DataConfig, known: Sequence[str]) -> Template:
    """The shape's own template, or the one `config` writes; UserError for a slot that is no column."""
    default = _default_template(shape)
    prompt = config.prompt if is_template(config.prompt) else default.prompt
    template = Template(prompt or "", config.answer or default.answer)
    if shape.name in ("messages", "words and tags", "minimal pairs"):
        if is_template(config.prompt) or config.answer:
            raise UserError(
                f"{config.path} holds {shape.name}, which no template of data.prompt or data.answer can change",
                "leave them out, or name other columns",
            )
        return template
    labelled = shape.kind in ("classification", "regression")
    allowed = [*known, "label"] if labelled else [*known, *IN_CHOICES] if shape.choices else known
    for slot in template.fields():
        if slot not in allowed and slot not in shape.asked:
            raise unknown(f"column for the template of {config.path}", slot, known)
    told = {"label", shape.answered} if labelled else {shape.answered}
    told |= {"choice", "letter"} if shape.choices else set()
    if told & set(Template(template.prompt, "").fields()):
        raise UserError(
            f"the prompt {template.prompt!r} would contain its own answer, {shape.answered}",
            "name a column that is not the answer",
        )
    if labelled and Template("", template.answer).fields() != ("label",):
        raise UserError(
            f"the answer of a {shape.kind} is its label alone, not {template.answer!r}",
            'write {label} and no other column, such as data.answer=" {label}"',
        )
    if shape.choices and not {"choice", "letter"} & set(Template("", template.answer).fields()):
        raise UserError(
            f"the answer {template.answer!r} is the same for every choice",
            'write {choice} or {letter}, such as data.answer=" {choice}"',
        )
    return template


def sentence(shape: Shape, template: Template, config: DataConfig, known: Sequence[str]) -> str:
    """What was recognised, and what to type for something else."""
    asked = " and ".join(shape.asked)
    headless = " (no header line)" if "column1" in known else ""
    if shape.talk:
        columns = " and ".join(filter(None, (*shape.asked, shape.answered)))
        several = "columns" if " and " in columns else "column"
        told = f"{config.path}: chat messages in {several} {columns}{beside(shape.talk)}"
        return f"{told}; choose another with data.messages=COLUMN"
    if shape.name == "text":
        return (
            f"{config.path}{headless}: plain text in column {asked}; for other uses name data.label or data.completion"
        )
    if shape.name in ("words and tags", "minimal pairs"):
        columns = " and ".join(name for name in (*shape.asked, shape.answered) if name)
        return f"{config.path}: {shape.name} in columns {columns}"
    if shape.choices:
        counted = {"letters": "by letter", "text": "by its text"}.get(
            shape.choices.counting, f"counted {shape.choices.counting}"
        )
        return (
            f"{config.path}{headless}: multiple choice, {asked or 'the template'} with the choices in "
            f"{', '.join(shape.choices.columns)} and the right one {counted} in {shape.answered}, asked as "
            f"{template.prompt!r}; choose others with data.text=COLUMN data.choices=COLUMN,COLUMN data.label=COLUMN"
        )
    labelled = shape.kind in ("classification", "regression")
    other = "data.label" if labelled else "data.completion"
    own = "data.text" if labelled else "data.prompt"
    untrained = f" ({shape.rejected} is kept, and not trained on)" if shape.rejected else ""
    return (
        f"{config.path}{headless}: {shape.name} in columns {asked or 'of the template'} and {shape.answered}"
        f"{untrained}, asked as {template.prompt!r}; choose others with {own}=COLUMN {other}=COLUMN"
    )


def is_template(prompt: str | None) -> bool:
    """Whether `data.prompt` is a template; otherwise it is the name of a column."""
    return prompt is not None and "{" in prompt


def bare_template(shape: Shape, config: DataConfig) -> Template:
    """The texts alone, for rows that a chat template writes the rest of."""
    prompt = config.prompt if is_template(config.prompt) else "\n".join(f"{{{name}}}" for name in shape.asked)
    return Template(prompt or "", config.answer or f"{{{shape.answered}}}")


def _default_template(shape: Shape) -> Template:
    slots = "\n".join(f"{{{name}}}" for name in shape.asked)
    match shape.name:
        case "text and label" | "pair and label":
            return Template(f"{slots}\nLabel:", " {label}")
        case "text and value" | "pair and value":
            return Template(f"{slots}\nValue:", " {label}")
        case "instruction and response":
            return Template(f"Human: {slots}\nAssistant:", f" {{{shape.answered}}}")
        case "prompt and completion" | "prompt, chosen and rejected":
            question = slots.lower() in ("{question}", "{query}")
            return Template(f"{slots}\nAnswer:" if question else slots, f"{{{shape.answered}}}")
        case "context and question":
            return Template(f"{{{shape.asked[0]}}}\nQuestion: {{{shape.asked[1]}}}\nAnswer:", f" {{{shape.answered}}}")
        case "question and choices":
            goes_on = shape.asked[0].lower() == "ctx"  # choices are endings of what stands there
            return Template(slots if goes_on else f"{slots}\nAnswer:", " {choice}")
        case "minimal pairs":
            return Template("", f"{{{shape.asked[0]}}}")
        case "messages":
            return Template("{messages}", "{answer}")
        case "words and tags":
            return Template("{words}", "{tags}")
        case _:
            return Template("", slots)
