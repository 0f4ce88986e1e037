"""Patterns: ways to ask in words, written over a task's own columns, and words for its labels.

A pattern and its words are how a language model is given a task, with demonstrations or by training: Schick & Schütze
2021, arXiv:2001.07676, section 3. The three kinds are those of Mosbach et al. 2023, arXiv:2305.16938: the columns and
little else, a question behind them, and an instruction with a name before each column.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from tunewise.data.config import DataConfig, Pattern
from tunewise.data.examples import Example, Part
from tunewise.data.shapes import Shape
from tunewise.data.template import Template, fill
from tunewise.errors import UserError, unknown

LONGEST_LIST = 8
"""More labels than this are not named in the prompt."""
ASKING = ("question", "query", "instruction", "prompt", "input")
"""Columns that ask by themselves."""

_ONE_SLOT = re.compile(r"\s*\{[^{}]+\}\s*")
Parts = Mapping[str, Sequence[Example]]


def asked_by(
    config: DataConfig, shape: Shape, template: Template, labels: Sequence[str], parts: Parts
) -> tuple[Template, Parts]:
    """Template and examples, asked by the pattern of `config` and answered in its words; as they are without either.

    UserError for rows that no pattern is written for, and for words that do not tell the labels apart.
    """
    if config.pattern == "none" and not config.words:
        return template, parts
    words, answered = _words(config, shape, labels), shape.answered
    if config.pattern != "none":
        _refuse_what_no_pattern_fits(config, shape, template)
        answered = Template("", template.answer).fields()[0] if shape.kind == "generation" else answered
        template = pattern_of(config.pattern, shape, answered, words)
    template = replace(template, words={label: word.strip() for label, word in config.words.items()})

    def again(example: Example) -> Example:
        fields = dict(zip(shape.asked, example.texts, strict=True))
        prompt = example.prompt if config.pattern == "none" else fill(template.prompt, fields)
        if example.label is None:
            answer = fill(template.answer, {answered: example.answer.strip()})
        else:
            answer = template.option(example.label)
        return replace(example, parts=(Part(prompt, False), Part(answer, True))[0 if prompt else 1 :])

    return template, {name: [again(example) for example in examples] for name, examples in parts.items()}


def pattern_of(pattern: Pattern, shape: Shape, answered: str, words: Sequence[str]) -> Template:
    """The template of this kind over the columns of a classification of one or two texts, or of a generation."""
    if shape.kind == "classification":
        return Template(_classifying(pattern, shape.asked, _named(answered, "label"), words), " {label}")
    slots = [f"{{{name}}}" for name in shape.asked]
    what = _named(answered, "answer")
    if pattern == "minimal":
        return Template("\n".join(slots) + "\n", f"{{{answered}}}")
    if pattern == "question" and shape.asked[0].lower() in ASKING:
        return Template("\n".join([*slots[1:], f"Question: {slots[0]}", "Answer:"]), f" {{{answered}}}")
    if pattern == "question":
        return Template("\n".join([*slots, f"Question: what is the {what}?", "Answer:"]), f" {{{answered}}}")
    lines = [f"Read {_the(shape.asked)}, then write the {what}.", *_headed(shape.asked), f"{_capital(what)}:"]
    return Template("\n".join(lines), f" {{{answered}}}")


def _classifying(pattern: Pattern, asked: Sequence[str], what: str, words: Sequence[str]) -> str:
    """The prompt of a classification."""
    listed = f"{', '.join(words[:-1])} or {words[-1]}" if len(words) <= LONGEST_LIST else ""
    listed = listed.replace("{", "{{").replace("}", "}}")
    if pattern == "verbose":
        told = f" which {what} {'it has' if len(asked) == 1 else 'they have'}"
        instruction = f"Read {_the(asked)} and say{told}{f': {listed}' if listed else ''}."
        return "\n".join([instruction, *_headed(asked), f"{_capital(what)}:"])
    if len(asked) == 1:
        question = f"Question: which {what} is it{f', {listed}' if listed else ''}?"
        return f"{{{asked[0]}}}" if pattern == "minimal" else f"{{{asked[0]}}}\n{question}\nAnswer:"
    first, second = asked
    if first.lower() in ASKING and second.lower() not in ASKING:
        first, second = second, first  # what is asked about comes first
    if pattern == "minimal":
        return f"{{{first}}} {{{second}}} ?"
    return f"{{{first}}}\nQuestion: {{{second}}} {listed or f'which {what}'}?\nAnswer:"


def _words(config: DataConfig, shape: Shape, labels: Sequence[str]) -> list[str]:
    """What is written for each label; UserError for words of no label, and for two labels of one word."""
    if config.words and shape.kind != "classification":
        raise UserError(
            f"data.words are for the labels of a classification; {config.path} is {shape.kind.replace('_', ' ')}",
            "leave data.words out",
        )
    for label in config.words:
        if label not in labels:
            raise unknown(f"label of {config.path}", label, labels)
    words = [config.words.get(label, label).strip() for label in labels]
    for number, word in enumerate(words):
        if not word or word in words[:number]:
            which = f"{labels[words.index(word)]} and {labels[number]}" if word else labels[number]
            raise UserError(
                f"the word {word!r} is written for {which}, and tells no label", "give each label a word of its own"
            )
    return words


def _refuse_what_no_pattern_fits(config: DataConfig, shape: Shape, template: Template) -> None:
    n_texts = len(shape.asked)
    if shape.name == "messages" or shape.kind not in ("classification", "generation"):
        reason = f"holds {shape.name}"
    elif not n_texts or (shape.kind == "classification" and n_texts > 2):
        reason = f"has {n_texts} columns of text that are asked"
    elif shape.kind == "generation" and not _ONE_SLOT.fullmatch(template.answer):
        reason = f"answers with {template.answer!r}, which is more than one column"
    else:
        return
    raise UserError(
        f"data.pattern={config.pattern} does not fit: {config.path} {reason}",
        "leave data.pattern out; it asks one or two texts for a label, or a text for another one",
    )


def _the(columns: Sequence[str]) -> str:
    """ "the premise and the hypothesis"."""
    names = [f"the {_named(column, 'text')}" for column in columns]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _headed(columns: Sequence[str]) -> list[str]:
    """ "Premise: {premise}" of each column."""
    return [f"{_capital(_named(column, 'text'))}: {{{column}}}" for column in columns]


def _named(column: str, otherwise: str) -> str:
    """A column's name as words; that of a file without a header tells nothing."""
    return otherwise if re.fullmatch(r"column\d+", column) else column.replace("_", " ")


def _capital(name: str) -> str:
    return name[:1].upper() + name[1:]
