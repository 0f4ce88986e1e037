"""What a teacher is asked, in our words; the steps are those of Self-Instruct.  Wang et al. 2023, arXiv:2212.10560.

Each text can be answered by a model that chats and continued by one that only writes on: it ends with the label of what
is wanted.
"""

from collections.abc import Sequence

from tunewise.teacher.seeds import Task

VERSION = "1"
"""Written beside each row. Any change of a text below is a new one: a journal of another version cannot go on."""

NO_INPUT = "none"

_INSTRUCTIONS = """\
Write new tasks for an assistant that reads and writes text. Each is one instruction in a sentence or two. Let them \
differ from one another and from those given here in topic, verb and form, but not in their language, and let each be \
possible without pictures, files or the internet. Write only the tasks, numbered on.
"""
_CLASSES = """\
Is the answer to the task always one of a few fixed labels? Answer yes or no.
"""
_INPUT_FIRST = """\
Write one example of the last task: the input that it is given and the output that is right. Make the input concrete \
and complete; write "Input: none" where the instruction needs no input.
"""
_OUTPUT_FIRST = """\
The answer to each task is a label. Write one example for each label that the last task can have: first the label, \
then an input for which it is right.
"""
_WHOLE = """\
Write new tasks for an assistant that reads and writes text: an instruction in a sentence or two, the input that it is \
given, and the output that is right. Write "Input: none" where the instruction needs no input. Let the tasks differ \
from one another and from those given here in topic, verb and form, but not in their language, and let each be \
possible without pictures, files or the internet. Write only the tasks, numbered on.
"""

EXAMPLES = (
    Task("", "Say whether the sentence is about food.", (("We had soup and bread.", "yes"), ("It rains.", "no")), True),
    Task(
        "",
        "Sort the message: is it a question, a complaint or praise?",
        (("When do you open?", "question"), ("The soup was cold.", "complaint"), ("I loved the cake!", "praise")),
        True,
    ),
    Task("", "Shorten the sentence to five words.", (("The old boat at last came in.", "The old boat came in."),)),
    Task("", "Name three things that are found on a farm.", (("", "A barn, a plough and a hen."),)),
)
"""Shown where the seed tasks have none of a kind."""


def instructions(shown: Sequence[Task], n_new: int) -> str:
    """Asks for `n_new` more instructions behind those shown."""
    listed = "".join(f"Task {number}: {_line(task)}\n" for number, task in enumerate(shown, start=1))
    return f"{_INSTRUCTIONS}Write {n_new} tasks.\n\n{listed}Task {len(shown) + 1}:"


def is_classification(shown: Sequence[Task], instruction: str) -> str:
    """Asks whether the outputs of an instruction are labels."""
    listed = "".join(f"Task: {_line(task)}\nAnswer: {'yes' if task.is_classification else 'no'}\n\n" for task in shown)
    return f"{_CLASSES}\n{listed}Task: {_one_line(instruction)}\nAnswer:"


def input_first(shown: Sequence[Task], instruction: str) -> str:
    """Asks for an example of an instruction, the input before the output."""
    listed = "".join(f"Task: {_line(task)}\n{_filled(*task.instances[0])}\n" for task in shown)
    return f"{_INPUT_FIRST}\n{listed}Task: {_one_line(instruction)}\nInput:"


def output_first(shown: Sequence[Task], instruction: str) -> str:
    """Asks for examples of a classification, the label before its input: else most inputs are of one label."""
    listed = "".join(
        f"Task: {_line(task)}\n"
        + "".join(f"Label: {label}\nInput: {given or NO_INPUT}\n" for given, label in task.instances)
        + "\n"
        for task in shown
    )
    return f"{_OUTPUT_FIRST}\n{listed}Task: {_one_line(instruction)}\nLabel:"


def whole(shown: Sequence[Task], n_new: int) -> str:
    """Asks for whole tasks, as Alpaca's authors did: one request instead of three.  Taori et al. 2023."""
    listed = "".join(
        f"Task {number}: {_line(task)}\n{_filled(*task.instances[0])}\n" for number, task in enumerate(shown, start=1)
    )
    return f"{_WHOLE}Write {n_new} tasks.\n\n{listed}Task {len(shown) + 1}:"


def answer(instruction: str, given: str, chats: bool) -> str:
    """Asks for the output alone: bare where a model chats, and else as tunewise trains such rows."""
    if chats:
        return f"{instruction}\n\n{given}" if given else instruction
    return f"Human: {instruction}\n" + (f"{given}\n" if given else "") + "Assistant:"


def _filled(given: str, output: str) -> str:
    return f"Input: {given or NO_INPUT}\nOutput: {output}\n"


def _line(task: Task) -> str:
    return _one_line(task.instruction)


def _one_line(text: str) -> str:
    return " ".join(text.split())
