"""What a person types -> an example of a task that nobody has answered yet."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase
from transformers.image_utils import load_image

from tunewise.data.chat_template import OWN_NAME, ChatTemplate, chat_template
from tunewise.data.choices import letter, lettered
from tunewise.data.conversations import Conversations
from tunewise.data.examples import Example, Ledger, Part
from tunewise.data.messages import Message, json_of
from tunewise.data.readers import plain
from tunewise.data.sandbox import Refused
from tunewise.data.task import METRICS, Task
from tunewise.data.template import Template, fill
from tunewise.errors import UserError, missing, unknown

TYPED, CHOICES, IMAGE = "text", "choices", "image"
SEPARATOR = "|"
"""Between the choices that are typed in one line."""
ONE, SEVERAL = '"..."', '["...", "..."]'
"""How an object of a question is told in an error."""
MOST_NEW_TOKENS = 100
"""Of an answer to a text that belongs to no task."""
_NAME = "typed"


def _check_image(path: Path) -> None:
    if not path.is_file():
        raise missing(path)
    try:
        load_image(str(path))
    except (OSError, ValueError, SyntaxError) as error:  # what pillow raises for a file that is none, or is cut
        raise UserError(f"{path.name} is no image that can be read", "give one as PNG or JPEG") from error


def columns_of(task: Task) -> tuple[str, ...]:
    """What has to be told to ask it something; UserError for a task that has no questions."""
    if task.mixture is not None:
        raise UserError(
            f"{task.name} is several tasks in one, each with questions of its own",
            f"name one of them (--data {next(iter(task.each.values())).source}), or --free",
        )
    if task.kind == "minimal_pairs":
        raise UserError(f"{task.name} holds minimal pairs, which ask nothing", "--free says what is typed as it is")
    if task.reads_images:
        return (IMAGE,)
    if task.chat is not None or task.kind == "language_modelling":
        return (TYPED,)
    if task.kind == "tagging":
        return task.asked
    names = dict.fromkeys([*Template(task.template.prompt, "").fields(), *task.asked])
    return tuple(names | ({CHOICES: None} if task.kind == "multiple_choice" else {}))


def may_be_empty(task: Task) -> tuple[str, ...]:
    """Of these columns those that a question does without, as an instruction does without its input."""
    columns = columns_of(task)
    return tuple(name for name in columns[1:] if task.kind == "generation" and name in task.template.vanishing)


def told_in(
    said: str | Mapping[str, object], columns: Sequence[str], may_be_empty: Collection[str] = ()
) -> dict[str, str]:
    """Column -> text, as a row of a file would have it; a bare text is that of the only column that may not be empty.

    UserError for another column, where all are empty, and for bytes that are no characters.
    """
    made_of = f"a question is made of {' and '.join(columns)}"
    if isinstance(said, str):
        if len([name for name in columns if name not in may_be_empty]) > 1:
            told = ", ".join(f'"{name}": {SEVERAL if name == CHOICES else ONE}' for name in columns)
            raise UserError(f"{made_of}, and this is one text: {said[:60]!r}", f"say each: {{{told}}}")
        said = {next(name for name in columns if name not in may_be_empty): said}
    for name in said:
        if name not in columns:
            raise unknown("part of a question", name, columns)
    texts = {name: plain(said.get(name)) for name in columns}
    found = {
        name: whole(SEPARATOR.join(map(str, text)) if isinstance(text, list) else text) for name, text in texts.items()
    }
    if not any(text.strip() for text in found.values()):
        raise UserError("nothing is asked", made_of)
    return found


def question_in(text: str) -> str | dict[str, object]:
    """A question of one text, or of several in a JSON object."""
    found = json_of(text, text) if text.startswith("{") else text
    return found if isinstance(found, dict) else text


def whole(text: str) -> str:
    """The text itself; UserError for one with half a surrogate pair, as which bytes that are not UTF-8 are read."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        told = f"{text[:60]!r} holds {text[error.start]!r}, which is no character"
        raise UserError(told, "is it UTF-8? convert it first: iconv -f latin1 -t utf-8") from None
    return text


def free_task(tokenizer: PreTrainedTokenizerBase) -> Task:
    """Of no data: what is typed is a user's turn where the tokenizer has a chat template, else a text to go on with."""
    chat = chat_template(OWN_NAME, tokenizer) if tokenizer.chat_template else None
    return Task(
        name="what is typed", kind="generation", template=Template(f"{{{TYPED}}}", ""), labels=(),
        metrics=METRICS["generation"], train=(), dev=(), test=(), ledger=Ledger(), separator="",
        max_new_tokens=MOST_NEW_TOKENS, source="", asked=(TYPED,), chat=chat,
    )  # fmt: skip


def typed_example(task: Task, told: Mapping[str, str], before: Sequence[Message] = ()) -> Example:
    """The question as the task asks it; `before` is what was said in this conversation, where it is one.

    What its answer would be is unknown: the first label or choice stands in its place.
    """
    if task.chat is not None:
        return next_turn(task.chat, [*before, Message("user", told[TYPED], trained=False)])
    if task.kind == "language_modelling":
        return _written(told[TYPED])
    if task.reads_images:
        _check_image(Path(told[IMAGE]))
        return Example(_NAME, (), task.labels[0], image=told[IMAGE])
    asked = tuple(told[name] for name in task.asked if name in told)
    if task.kind == "tagging":
        words = tuple(told[task.asked[0]].split())
        return Example(_NAME, (Part(" ".join(words), False),), texts=words, tags=(task.labels[0],) * len(words))
    if CHOICES in told:
        texts = [text.strip() for text in told[CHOICES].split(SEPARATOR) if text.strip()]
        if len(texts) < 2:
            raise UserError(f"one choice is none: {told[CHOICES]!r}", f"write {SEPARATOR} between them")
        if len(set(texts)) < len(texts):
            raise UserError(f"a choice is there twice: {told[CHOICES]!r}", "leave one of them out")
        fields = {**told, CHOICES: lettered(texts)}
        rendered = [task.template.render(fields | {"choice": one, "letter": letter(n)}) for n, one in enumerate(texts)]
        answers = tuple(answer for _, answer in rendered)
        return Example(
            _NAME, (Part(rendered[0][0], False), Part(answers[0], True)), letter(0), texts=asked, choices=answers
        )
    prompt = fill(task.template.prompt, told)
    if task.kind == "generation":
        return _written(prompt)
    label = task.labels[0] if task.labels else "0"
    return Example(_NAME, (Part(prompt, False), Part(task.template.option(label), True)), label, texts=asked)


def next_turn(chat: ChatTemplate, messages: Sequence[Message]) -> Example:
    """What is to be said after these messages. UserError where the template does not want them."""
    try:
        opened = Conversations(chat).opened(messages)
    except Refused as error:
        raise UserError(str(error), "ask it freely, or name another template: data.template=plain") from error
    return _written(opened, end=chat.around.end)


def _written(prompt: str, end: str = "") -> Example:
    """A prompt, and an answer of which nothing is known."""
    return Example(_NAME, (Part(prompt, False), Part("", True)), end=end)
