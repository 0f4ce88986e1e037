"""Which instructions and which examples are kept. Each filter says why not, or "" where it has nothing against them.

Those of Self-Instruct, section 2.2 and its code, but for novelty, and of its successors where a comment says so.
"""

import re
from collections import Counter
from collections.abc import Collection, Sequence

from tunewise.teacher.novelty import Kept, words_of
from tunewise.teacher.scripts import foreign

FEWEST_WORDS, MOST_WORDS = 3, 150
BEYOND_TEXT = tuple(
    "image images picture pictures photo photos graph graphs chart charts diagram diagrams flowchart flowcharts "
    "figure figures video videos audio music file files attachment screenshot map maps draw plot sketch website "
    "webpage".split()
)
"""Words of what a model of texts cannot be given, or cannot do."""

_DECLINES = re.compile(  # chat models; not in Self-Instruct, whose teacher only wrote on
    r"\W*(?:i['’]m sorry\b|i am sorry\b|sorry,|i apologi[sz]e\b|i can(?:no|['’])?t\b|i am unable\b"
    r"|i['’]m unable\b|as an ai\b|as a (?:large )?language model\b|unfortunately, i\b)",
    re.I,
)
_LEFT_OVER = re.compile(r"^\s*(?:task|instruction|input|output|label)\s*\d*\s*:", re.I | re.M)
MOST_LABEL_WORDS = 10


def why_no_instruction(
    text: str, *, scripts: frozenset[str] = frozenset(), keywords: Collection[str] = BEYOND_TEXT
) -> str:
    """What speaks against an instruction by itself; `scripts` are those of the seeds."""
    words = words_of(text)
    if not words:
        return "empty instruction"
    if not (text[0].isalnum() or text[0] in "¿¡\"'“"):
        return "instruction begins with a sign"
    if len(words) < FEWEST_WORDS:
        return f"instruction under {FEWEST_WORDS} words"
    if len(words) > MOST_WORDS:
        return f"instruction over {MOST_WORDS} words"
    if set(words) & set(keywords):
        return "instruction asks for more than text"
    if scripts and foreign(text, scripts):
        return "instruction in another script"
    return ""


def why_not_new(text: str, kept: Kept, names: Sequence[str]) -> tuple[str, str]:
    """("instruction like another", what it is like) for one that is near a kept one; `names` are those of the kept."""
    found = kept.nearest(text)
    if found is None:
        return "", ""
    number, score = found
    return "instruction like another", f"ROUGE-L {score:.2f} with {names[number]}"


def why_no_output(instruction: str, given: str, output: str) -> str:
    """What speaks against an answer to an instruction that was there before."""
    same = " ".join(output.split()).lower()
    if not same:
        return "empty output"
    if _DECLINES.match(output):
        return "the teacher declines"
    if same == " ".join(given.split()).lower():
        return "output repeats the input"
    if same == " ".join(instruction.split()).lower():
        return "output repeats the instruction"
    return ""


def why_no_example(instruction: str, given: str, output: str, *, is_label: bool = False) -> str:
    """What speaks against one example of an instruction by itself."""
    if why := why_no_output(instruction, given, output):
        return why
    if output.endswith(":") or given.endswith(":"):
        return "input or output ends with a colon"
    if _LEFT_OVER.search(output) or _LEFT_OVER.search(given):
        return "labels left over in it"
    if is_label and len(words_of(output)) > MOST_LABEL_WORDS:
        return f"label over {MOST_LABEL_WORDS} words"
    return ""


def contradicted(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """For each (input, output) of one instruction, "same input, other output", "the same example twice" (but the first
    time), or ""."""
    outputs: dict[str, set[str]] = {}
    for given, output in pairs:
        outputs.setdefault(given, set()).add(output)
    seen: Counter[tuple[str, str]] = Counter()
    told = []
    for given, output in pairs:
        seen[given, output] += 1
        if len(outputs[given]) > 1:
            told.append("same input, other output")
        else:
            told.append("the same example twice" if seen[given, output] > 1 else "")
    return told
