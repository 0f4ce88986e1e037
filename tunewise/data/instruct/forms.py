"""One record asked by one template: as it stands, with its possible answers listed, or behind demonstrations.

The forms are those of the Flan Collection, Longpre et al. 2023, arXiv:2301.13688, section 3: zero-shot and few-shot,
answers listed or not, chains of thought, and inverted tasks.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from tunewise.data.choices import letter, lettered
from tunewise.data.instruct.clusters import CHOICES, LETTER, OPTIONS, InstructionTemplate
from tunewise.data.instruct.records import Record, readable
from tunewise.data.template import fill

HEADS = ("Options:", "Possible answers:", "Choose from:", "Answer with one of these:")
FRAMES = (
    ("", "", "\n\n###\n\n"),
    ("Q: ", "\nA:", "\n\n"),
    ("Input: ", "\nOutput:", "\n\n"),
    ("Question: ", "\nAnswer:", "\n\n"),
)
"""What stands before a prompt, before its answer, and between one demonstration and the next."""


@dataclass(frozen=True)
class Instruction:
    """What is asked and what is answered. `options` are all answers that can be chosen, in the order shown."""

    prompt: str
    completion: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Form:
    """How a template is written out: whether the possible answers are listed, under which heading, how many at most."""

    listed: bool = True
    head: str = HEADS[0]
    most: int = 16
    cued: bool = False
    """Whether the answer comes behind a cue of its frame, such as A:, where it had a line of its own."""


def fits(template: InstructionTemplate, record: Record) -> bool:
    """Whether the record has all that the template asks for and tells."""
    if template.words and len({template.words.get(label, "") for label in record.labels} - {""}) < len(record.labels):
        return False  # a class without words, or two with the same
    for slot, values in template.when.items():
        if (record.label if slot == "label" else record.fields.get(slot, "").casefold()) not in values:
            return False
    for slot, phrases in template.phrases.items():
        if record.fields.get(slot, "").casefold() not in phrases:
            return False
    derived = {OPTIONS, *({"label"} if record.labels else ())}
    derived |= {LETTER, CHOICES} if record.labels or record.choices else set()
    needed = [*template.asked, *template.told]
    return all(slot in derived or record.fields.get(slot) or _may_lack(slot, template, record) for slot in needed)


def _may_lack(slot: str, template: InstructionTemplate, record: Record) -> bool:
    """Whether a slot that the record leaves empty stands alone on its line, which then disappears."""
    if record.fields.get(slot) is None or slot in template.told or slot in template.phrases:
        return False
    return all(line == f"{{{slot}}}" for line in template.prompt.split("\n") if f"{{{slot}}}" in line)


def asked(template: InstructionTemplate, record: Record, form: Form, draw: Random) -> Instruction:
    """The record in the words of the template; `draw` orders the classes."""
    fields = {slot: template.phrases[slot][text.casefold()] if slot in template.phrases else text
              for slot, text in record.fields.items()}  # fmt: skip
    answers, right = _answers(template, record, form, draw)
    if record.labels:
        fields["label"] = template.words.get(record.label, readable(record.label))
    fields[CHOICES] = lettered(answers)
    is_listed = form.listed and bool(answers)
    # an answer has a line of its own, unless the words run on into it: "Sentiment:", "I would say"
    runs_on = _runs_on(template, record, is_listed)
    # most tokenizers have other tokens behind a space than where a line begins: it stands in the list as it is answered
    item = "- " if runs_on or form.cued else ""
    fields[OPTIONS] = "\n".join([form.head, *(f"{item}{answer}" for answer in answers)]) if is_listed else ""
    prompt = fill(template.prompt, fields).rstrip()
    prompt = prompt if runs_on else f"{prompt}\n"
    slot = "answer" if record.choices and "label" not in template.told else "label"
    options = tuple(
        fill(template.answer, fields | {slot: answer, LETTER: letter(number)}).strip()
        for number, answer in enumerate(answers)
    )
    completion = options[right] if options else fill(template.answer, fields).strip()
    return Instruction(prompt, completion, options if template.chooses else ())


def with_demonstrations(shown: Sequence[Instruction], last: Instruction, frame: tuple[str, str, str]) -> Instruction:
    """The last instruction behind the others, each with its answer, in the words of a frame."""
    before, cue, between = frame
    if not last.prompt.endswith("\n"):  # its own words run on into the answer
        before, cue = "", ""

    def opened(instruction: Instruction) -> str:
        prompt = f"{before}{instruction.prompt}"
        return f"{prompt.rstrip()}{cue}" if cue else prompt

    parts = [f"{opened(one)}{'' if opened(one)[-1:].isspace() else ' '}{one.completion}" for one in shown]
    return Instruction(between.join([*parts, opened(last)]), last.completion, last.options)


def _answers(template: InstructionTemplate, record: Record, form: Form, draw: Random) -> tuple[tuple[str, ...], int]:
    """The answers that can be chosen, in an order, and the number of the right one; none where the answer is free."""
    if template.inverted and CHOICES not in template.asked:
        return (), 0
    if record.choices and "label" not in template.told:
        return record.choices, record.right
    if not record.labels:
        return (), 0
    others = [label for label in record.labels if label != record.label]
    draw.shuffle(others)
    labels = others[: form.most - 1]
    labels.insert(draw.randint(0, len(labels)), record.label)
    return tuple(template.words.get(label, readable(label)) for label in labels), labels.index(record.label)


def _runs_on(template: InstructionTemplate, record: Record, is_listed: bool) -> bool:
    """Whether the template ends with a word of its own, or a colon."""
    lines = [line for line in template.prompt.rstrip().split("\n") if is_listed or line.strip() != f"{{{OPTIONS}}}"]
    end = "\n".join(lines).rstrip()
    for slot, phrases in template.phrases.items():
        end = end.replace(f"{{{slot}}}", phrases[record.fields[slot].casefold()])
    return re.search(r"[\w:]$", end) is not None
