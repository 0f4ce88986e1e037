"""Which columns mean what: recognised by name, then by content, told in one sentence, and overridable."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from tunewise.data.choices import ANSWERS, QUESTIONS, Choices, counting_of, detect_choices
from tunewise.data.config import DataConfig
from tunewise.data.readers import Row, columns, require
from tunewise.data.template import Template
from tunewise.errors import UserError, unknown

Kind = Literal[
    "classification", "regression", "tagging", "generation", "multiple_choice", "minimal_pairs", "language_modelling"
]

MESSAGES = ("messages", "conversations", "conversation", "dialog", "dialogue")
TEXT = tuple(
    "text sentence content message review tweet utterance sms document comment body headline title "
    "question query input prompt".split()
)
LABEL = tuple("label labels category class intent sentiment gold_label label_text stars rating score target".split())
WORDS = tuple("tokens words".split())
TAGS = tuple("tags ner_tags pos_tags labels".split())
PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("text1", "text2"),
    ("question1", "question2"),
    ("sentence_a", "sentence_b"),
    ("question", "passage"),
    ("question", "sentence"),
)
PROMPT = tuple("prompt question instruction query input source article document text".split())
COMPLETION = tuple("completion answer response output target summary reply".split())
EXTRA = ("input", "context")
IN_CHOICES = ("choices", "choice", "letter")
"""Slots of a template of multiple choice that are no columns: all choices with their letters, and one of them."""


@dataclass(frozen=True)
class Shape:
    """What a file's rows are.

    `asked` and `answered` are columns; of messages only the first is used, of plain text the second is empty. Of
    minimal pairs `asked` is the good sentence and the bad one.
    """

    name: Literal[
        "text and label",
        "pair and label",
        "text and value",
        "pair and value",
        "words and tags",
        "instruction and response",
        "prompt and completion",
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


def detect(rows: Sequence[Row], config: DataConfig) -> Shape:
    """The shape of these rows, the columns that `config` names taking precedence; UserError when it cannot be told."""
    known = columns(rows)
    shape = _named(known, rows, config) or _by_name(known, rows) or _by_content(known, rows)
    if shape is None:
        raise UserError(
            f"cannot tell what the columns of {config.path} mean: {', '.join(known)}",
            "say it: data.text=COLUMN data.label=COLUMN, or data.prompt=COLUMN data.completion=COLUMN, "
            "or data.text=COLUMN alone for plain text",
        )
    return _valued(shape, rows, config)


def _valued(shape: Shape, rows: Sequence[Row], config: DataConfig) -> Shape:
    """The same, its labels taken as values where they are numbers with fractions; whole numbers may be class ids."""
    if shape.name not in ("text and label", "pair and label"):
        return shape
    labels = [str(row.fields.get(shape.answered, "")).strip() for row in rows]
    numbers = [number for label in labels if (number := number_of(label)) is not None]
    if config.kind == "regression" and not numbers:
        raise UserError(
            f"no value in {shape.answered} of {config.path} is a number: {labels[0]!r}", "leave data.kind out"
        )
    all_fractions = len(numbers) == sum(map(bool, labels)) and any(number % 1 for number in numbers)
    if config.kind == "classification" or not (config.kind or all_fractions):
        return shape
    return Shape("text and value" if shape.name == "text and label" else "pair and value", shape.asked, shape.answered)


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
        if slot not in allowed:
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
    if shape.name == "messages":
        return f"{config.path}: chat messages in column {asked}; choose another with data.messages=COLUMN"
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
    return (
        f"{config.path}{headless}: {shape.name} in columns {asked or 'of the template'} and {shape.answered}, asked as "
        f"{template.prompt!r}; choose others with {own}=COLUMN {other}=COLUMN"
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
        case "prompt and completion":
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


def _named(known: list[str], rows: Sequence[Row], config: DataConfig) -> Shape | None:
    """What the configuration says; columns it leaves out are looked for by name, then by content."""
    if config.messages:
        return Shape("messages", (require(config.messages, known, config.path),))
    if config.tags:
        words = (config.text,) if config.text else _first(WORDS, known)
        for name in (*words, config.tags):
            require(name, known, config.path)
        return Shape("words and tags", words or _first(TEXT, known), config.tags)
    asked = _listed(config.text)
    if config.minimal_pair:
        return Shape("minimal pairs", tuple(require(name, known, config.path) for name in _listed(config.minimal_pair)))
    if config.choices:
        return _chosen(known, rows, config)
    if config.prompt and not is_template(config.prompt):
        asked = (config.prompt,)
    for name in (*asked, config.label, config.completion):
        if name:
            require(name, known, config.path)
    if config.label:
        others = [name for name in known if name != config.label]
        asked = asked or _pair(known) or _first(TEXT, others) or tuple(others[:1])
        return Shape("text and label" if len(asked) < 2 else "pair and label", asked, config.label)
    if config.completion:
        others = [name for name in known if name != config.completion]
        return Shape("prompt and completion", asked or _first(PROMPT, others) or tuple(others[:1]), config.completion)
    if not asked:
        return None
    others = [name for name in known if name not in asked]
    if not config.text and (answer := _first(COMPLETION, others)):
        return Shape("prompt and completion", asked, answer[0])
    label = _first(LABEL, others) or tuple(name for name in others if _is_label(rows, name))
    if len(label) == 1:
        return Shape("text and label" if len(asked) < 2 else "pair and label", asked, label[0])
    if config.text and len(asked) == 1:
        return Shape("text", asked)
    return None


def _chosen(known: list[str], rows: Sequence[Row], config: DataConfig) -> Shape:
    """Multiple choice by the columns that are named, the question's and the answer's by name where they are not."""
    columns = _listed(config.choices)
    asked = _listed(config.text) or _listed("" if is_template(config.prompt) else config.prompt)
    others = [name for name in known if name not in columns]
    for name in (*columns, *asked, config.label):
        if name:
            require(name, known, config.path)
    answer = config.label or next(iter(_first(ANSWERS, others)), others[-1] if others else "")
    lower = {name.lower(): name for name in others if name != answer}
    found = next((names for names in QUESTIONS if all(name in lower for name in names)), tuple(lower)[:1])
    counting = counting_of(rows, columns, answer)
    if counting is None:
        raise UserError(
            f"{answer or 'no column'} of {config.path} does not tell which of {', '.join(columns)} is right",
            "name the column with the letter, number or text of the right one: data.label=COLUMN",
        )
    asked = asked or tuple(lower[name] for name in found)
    if not asked and not is_template(config.prompt):
        raise UserError(f"no column of {config.path} is left to be asked", "name one: data.text=COLUMN")
    return Shape("question and choices", asked, answer, Choices(columns, counting))


def _listed(columns: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in columns.split(",")) if columns else ()


def _by_name(known: list[str], rows: Sequence[Row]) -> Shape | None:
    for name in known:
        if name.lower() in MESSAGES and isinstance(rows[0].fields.get(name), list):
            return Shape("messages", (name,))
    if found := detect_choices(known, rows):
        asked, choices, answered = found
        return Shape("question and choices", asked, answered, choices)
    if {"sentence_good", "sentence_bad"} <= set(known):
        return Shape("minimal pairs", ("sentence_good", "sentence_bad"))
    if {"context", "question", "answers"} <= set(known):
        return Shape("context and question", ("context", "question"), "answers")
    words, tags = _first(WORDS, known), _first(TAGS, known)
    if words and tags and all(isinstance(rows[0].fields.get(name), list) for name in (*words, *tags)):
        return Shape("words and tags", words, tags[0])
    answer = _first(COMPLETION, known)
    if answer and (instruction := _first(("instruction",), known)):
        return Shape("instruction and response", (*instruction, *_first(EXTRA, known)), answer[0])
    label = _first(LABEL, known)
    # "target" is a class in one file and a sentence in the next
    if label and (label[0].lower() != "target" or _is_label(rows, label[0])):
        if pair := _pair(known):
            return Shape("pair and label", pair, label[0])
        # a column of a few values ("question": cause or effect) is not what the model is asked
        if text := _first(TEXT, [name for name in known if name != label[0] and not _is_label(rows, name)]):
            return Shape("text and label", text, label[0])
    if answer and (prompt := _first(PROMPT, known)):
        return Shape("prompt and completion", prompt, answer[0])
    text = _first(("text",), known)
    return Shape("text", text) if text else None


def _by_content(known: list[str], rows: Sequence[Row]) -> Shape | None:
    """One column of few short values and one or two of text, or one column alone."""
    labels = [name for name in known if _is_label(rows, name)]
    texts = tuple(name for name in known if name not in labels)
    if len(labels) == 1 and len(texts) in (1, 2):
        return Shape("text and label" if len(texts) == 1 else "pair and label", texts, labels[0])
    return Shape("text", tuple(known)) if len(known) == 1 else None


def _is_label(rows: Sequence[Row], name: str) -> bool:
    """Whether a column's values are short and come again and again, four times each on average."""
    values = [row.fields.get(name, "") for row in rows]
    if not all(isinstance(value, str) and len(value) <= 40 for value in values):
        return False
    return len({str(value) for value in values}) * 4 <= len(values)


def _pair(known: Sequence[str]) -> tuple[str, ...]:
    lower = {name.lower(): name for name in known}
    return next(((lower[one], lower[two]) for one, two in PAIRS if one in lower and two in lower), ())


def _first(names: Collection[str], known: Sequence[str]) -> tuple[str, ...]:
    """The column that has the earliest of these names, as a tuple of one; empty where there is none."""
    lower = {name.lower(): name for name in reversed(known)}
    return next(((lower[name],) for name in names if name in lower), ())
