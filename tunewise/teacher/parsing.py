"""What a teacher wrote -> instructions, labels, inputs and outputs, however it set them.

Chat models repeat the label they were asked to go on from, number from 1 again, embolden, and greet; models that write
on begin in the middle of a line. Both are read; what cannot be is told by a reason, and nothing is guessed.
"""

import re
from dataclasses import dataclass

_FENCED = re.compile(r"```[^\n`]*\n(((?!```).)*)```", re.S)
_MARK = re.compile(r"^[ \t#>*_]*(task[ \t]*)?(\d{1,3})[ \t]*[.:)][ \t*_]*", re.I | re.M)
_FIELD = re.compile(
    r"^[ \t#>*_]*(task|instruction|(?:class )?label|input|output|answer)[ \t]*\d*[ \t]*[*_]*:[*_]*", re.I | re.M
)
_BULLET = re.compile(r"^\s*[-*•–]\s+")
_NO_INPUT = ("", "none", "no input", "noinput", "n/a", "na", "not needed", "-", "–")


def without_thought(text: str) -> str:
    """The text without what a reasoning model thought before it; "" where it did not come to an end."""
    _, closed, rest = text.rpartition("</think>")
    return "" if not closed and text.lstrip().startswith("<think>") else rest.strip()


def plain(text: str) -> str:
    """The same, and without a fence around the whole of it."""
    answer = without_thought(text)
    fenced = _FENCED.fullmatch(answer)
    return fenced[1].strip() if fenced else answer


def numbered(text: str, first: int) -> list[str]:
    """The parts of a numbered list that was to go on from number `first`.

    What stands before the first number is a part as well where that number is the one after `first`, or where there
    is no number at all; otherwise it is a greeting.
    """
    marks = list(_MARK.finditer(text))
    # an input may hold a numbered list of its own
    marks = [mark for mark in marks if mark[1]] or marks
    if not marks:
        parts = [_BULLET.sub("", line) for line in text.split("\n") if _BULLET.match(line)] or text.split("\n\n")[:1]
    else:
        ends = [mark.start() for mark in marks[1:]] + [len(text)]
        parts = [text[mark.end() : end] for mark, end in zip(marks, ends, strict=True)]
        if int(marks[0][2]) == first + 1:
            parts.insert(0, text[: marks[0].start()])
    return [stripped for part in parts if (stripped := part.strip(" \t\n*_"))]


def one_instruction(part: str) -> str:
    """An instruction on one line, without the label and the quotation marks around it."""
    line = " ".join(re.sub(r"^(?:task|instruction)\s*:\s*", "", part, flags=re.I).split())
    quoted = re.fullmatch(r"""["“']([^"“”']+)["”']""", line)
    return quoted[1].strip() if quoted else line


def yes_or_no(text: str) -> bool | None:
    """What was answered; None where it is neither."""
    word = re.match(r"\W*(?:answer\W+)?(yes|no)\b", text, re.I)
    return None if word is None else word[1].lower() == "yes"


def fields(text: str, opened: str) -> list[tuple[str, str]]:
    """The labelled parts of a text that was to go on behind the label `opened`, as (label in lower case, content).

    They end where another task begins.
    """
    kept: list[tuple[str, str]] = []
    for label, content in _all_fields(text, opened):
        if label in ("task", "instruction"):
            if any(seen in ("output", "input") for seen, _ in kept):
                break
            continue  # it says the task over before it answers
        kept.append(("output" if label == "answer" else label, content))
    return kept


def _all_fields(text: str, opened: str) -> list[tuple[str, str]]:
    """Every labelled part, what stands before the first label being `opened`."""
    marks = list(_FIELD.finditer(text))
    head = text[: marks[0].start()] if marks else text
    found = [(opened, head.strip())] if head.strip() or not marks else []
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    for mark, end in zip(marks, ends):
        found.append((mark[1].lower().removeprefix("class "), text[mark.end() : end].strip()))
    return found


def pair(text: str) -> tuple[str, str] | str:
    """(input, output) of an example whose input was asked for first, or why there is none."""
    found = fields(text, "input")
    output = next((content for label, content in found if label in ("output", "label")), None)
    given = next((content for label, content in found if label == "input"), "")
    if output is None:
        return "no output in the answer"
    return without_none(given), output


def labelled(text: str) -> list[tuple[str, str]] | str:
    """(input, output) of each example whose label was asked for first, or why there is none."""
    label, pairs = None, []
    for name, content in fields(text, "label"):
        if name in ("label", "output"):
            label = content
        elif label is not None:
            pairs.append((without_none(content), label))
            label = None
    return pairs or "no label with an input in the answer"


def without_none(given: str) -> str:
    """An input, "" where it says that there is none."""
    return "" if given.strip(" \t\n<>()[].\"'*").lower() in _NO_INPUT else given


@dataclass(frozen=True)
class Whole:
    """A task that was written in one piece; without an output where it broke off or has none."""

    instruction: str
    input: str
    output: str | None


def tasks(text: str, first: int) -> list[Whole]:
    """The whole tasks of a list that was to go on from number `first`."""
    found = []
    for part in numbered(text, first):
        by_label = dict(reversed(_all_fields(part, "instruction")))  # the first of each label
        instruction = one_instruction(by_label.get("instruction") or by_label.get("task") or "")
        output = by_label.get("output", by_label.get("answer", by_label.get("label")))
        found.append(Whole(instruction, without_none(by_label.get("input", "")), output))
    return found
