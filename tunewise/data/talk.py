"""Conversations: which columns of a row hold one, whole or in pieces, and the row's own put together.

The pieces are those that trl, LLaMA-Factory and the makers of preference data write: `messages` with `tools` and
`system` beside them, `prompt` and `completion` as lists of messages, `chosen` and `rejected`, and Alpaca's instructions
with a `system` text and a `history`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

from tunewise.data.config import DataConfig
from tunewise.data.messages import Message, all_messages, are_messages, json_of, read_messages, tools_of
from tunewise.data.readers import Row, require
from tunewise.errors import UserError

MESSAGES = ("messages", "conversations", "conversation", "dialog", "dialogue")
COMPLETIONS = ("completion", "response", "answer", "output", "chosen")
BESIDE = {"system": ("system", "system_prompt"), "tools": ("tools", "functions"), "history": ("history",)}
SAMPLE = 50
"""So many rows tell what a column holds."""


@dataclass(frozen=True)
class Talk:
    """The columns of a conversation. With an `answer` only that is trained, else every turn of the assistant's."""

    asked: tuple[str, ...]
    """The column of the messages, or those of the question: messages, or texts put one below the other."""
    answer: str = ""
    """The column of the last answer, text or messages."""
    rejected: str = ""
    """The column of an answer that is worse; it is kept in the rows, and not trained."""
    system: str = ""
    tools: str = ""
    history: str = ""
    """The column of earlier turns, as pairs of a question and its answer."""

    def of(self, row: Row) -> "Conversation":
        """The row's conversation; UserError for what is none, and where nothing in it is trained."""
        tools = tools_of(row.fields.get(self.tools, "")) if self.tools else ()
        before = self._before(row)
        if not self.answer:
            messages = read_messages(row.fields.get(self.asked[0]))
        else:
            messages = [*_untrained(self._question(row)), *self._answer(row)]
            if not messages[-1].trained:
                raise UserError("its answer is empty")
        if before and before[0].role == messages[0].role == "system":
            before = before[1:]  # the conversation's own text is meant for it
        return Conversation((*before, *messages), tools)

    def _before(self, row: Row) -> list[Message]:
        """The system's text and the earlier turns."""
        system = row.fields.get(self.system, "") if self.system else ""
        if not isinstance(system, str):
            raise UserError(f"its {self.system} is no text")
        messages = [Message("system", system, False)] if system.strip() else []
        for question, answer in _pairs(row.fields.get(self.history, ""), self.history) if self.history else ():
            # what was answered before was answered by the same assistant, and is trained as it is in messages
            messages += [Message("user", question, False), Message("assistant", answer, bool(answer.strip()))]
        return messages

    def _question(self, row: Row) -> list[Message]:
        if not self.asked:
            return []
        first = row.fields.get(self.asked[0])
        if are_messages(first):
            return all_messages(first)
        texts = [row.fields.get(name, "") for name in self.asked]
        if not all(isinstance(text, str) for text in texts):
            raise UserError(f"it has no text in {' and '.join(self.asked)}")
        text = "\n".join(str(text) for text in texts if text)
        if not text.strip():
            raise UserError(f"its {' and '.join(self.asked)} is empty")
        return [Message("user", text, False)]

    def _answer(self, row: Row) -> list[Message]:
        """The answer's turns; what it shares with `rejected` where it repeats the question is not trained."""
        value = row.fields.get(self.answer)
        if not are_messages(value):
            if not isinstance(value, str):
                raise UserError(f"it has no text in {self.answer}")
            return [Message("assistant", value, bool(value.strip()))]
        messages = read_messages(value)
        if self.asked or not self.rejected:
            return messages
        pairs = zip(messages, all_messages(row.fields.get(self.rejected)))
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        if shared == len(messages):
            raise UserError(f"its {self.answer} and {self.rejected} are the same")
        return [*_untrained(messages[:shared]), *messages[shared:]]


@dataclass(frozen=True)
class Conversation:
    """Turns, the last of them an answer, and the tools that the assistant may call."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()


def named_talk(known: Sequence[str], rows: Sequence[Row], config: DataConfig) -> Talk | None:
    """The conversation in the columns that `config` names, or None; UserError for a column that is not there."""
    if config.messages:
        return _with_beside(Talk((require(config.messages, list(known), config.path),)), known, rows, config)
    lower = {name.lower(): name for name in reversed(known)}
    prompt = config.prompt if config.prompt and "{" not in config.prompt else ""
    answer = config.completion or ""
    if config.rejected:  # the two beside it may have their usual names
        require(config.rejected, list(known), config.path)
        prompt, answer = prompt or lower.get("prompt", ""), answer or lower.get("chosen", "")
    if not answer or not (prompt or config.rejected) or not {prompt, answer} <= {"", *known}:
        return None
    beside_named = config.system or config.tools or config.history
    if not beside_named and not any(_hold_messages(rows, name) for name in (prompt, answer)):
        return None
    question = "" if config.rejected and _begins_with_the_question(rows, answer) else prompt
    return _with_beside(Talk((question,) if question else (), answer, config.rejected or ""), known, rows, config)


def detect_talk(known: Sequence[str], rows: Sequence[Row], config: DataConfig) -> Talk | None:
    """The columns of the conversation that these rows hold, recognised by their names and by what is in them."""
    lower = {name.lower(): name for name in reversed(known)}
    whole = next((lower[name] for name in MESSAGES if name in lower and _hold_messages(rows, lower[name])), "")
    prompt = lower.get("prompt", "")
    answer = next((lower[name] for name in COMPLETIONS if name in lower), "")
    talk = None
    if "chosen" in lower and "rejected" in lower and (whole or _hold_messages(rows, lower["chosen"])):
        question = "" if _begins_with_the_question(rows, lower["chosen"]) else whole or prompt
        talk = Talk((question,) if question else (), lower["chosen"], lower["rejected"])
    elif whole:
        talk = Talk((whole,))
    elif answer and prompt and any(_hold_messages(rows, name) for name in (prompt, answer)):
        talk = Talk((prompt,), answer)
    elif answer and "instruction" in lower:
        asked = tuple(lower[name] for name in ("instruction", "input", "context") if name in lower)
        talk = _with_beside(Talk(asked, answer), known, rows, config)
        return talk if talk.system or talk.tools or talk.history else None
    return _with_beside(talk, known, rows, config) if talk else None


def beside(talk: Talk) -> str:
    """The columns that are read beside the turns, in words; "" where there are none."""
    told = [f"{what} in {name}" for what in BESIDE if (name := getattr(talk, what))]
    if talk.rejected:
        told.append(f"the answers in {talk.rejected} are kept and not trained")
    return f"; {', '.join(told)}" if told else ""


def _with_beside(talk: Talk, known: Sequence[str], rows: Sequence[Row], config: DataConfig) -> Talk:
    """The talk with the columns that `config` names, or that have the usual names and hold what they say."""
    lower = {name.lower(): name for name in reversed(known)}

    def column(given: str | None, what: str) -> str:
        if given is not None:
            return require(given, list(known), config.path)
        found = next((lower[name] for name in BESIDE[what] if name in lower), "")
        return found if found and any(_holds(what, row.fields.get(found, "")) for row in rows) else ""

    return replace(
        talk,
        system=column(config.system, "system"),
        tools=column(config.tools, "tools"),
        history=column(config.history, "history"),
    )


def _holds(what: str, value: object) -> bool:
    """Whether this is a text for the system, some tools, or a history of at least one turn."""
    try:
        match what:
            case "system":
                return isinstance(value, str) and bool(value.strip())
            case "tools":
                return bool(tools_of(value))
            case _:
                return bool(_pairs(value, what))
    except UserError:
        return False


def _pairs(value: object, name: str) -> list[tuple[str, str]]:
    """The questions and answers of a history, a list of pairs or JSON text of one; UserError for anything else."""
    found = json_of(value, value) if isinstance(value, str) else value
    if not found:
        return []
    pairs: list[tuple[str, str]] = []
    for pair in found if isinstance(found, list) else [found]:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(turn, str) for turn in pair):
            raise UserError(f"its {name} is no list of pairs of a question and an answer")
        pairs.append((pair[0], pair[1]))
    return pairs


def _hold_messages(rows: Sequence[Row], name: str) -> bool:
    return any(are_messages(row.fields.get(name)) for row in rows[:SAMPLE])


def _begins_with_the_question(rows: Sequence[Row], name: str) -> bool:
    """Whether the column has whole conversations, and not their last answers alone."""
    first = next((found for row in rows[:SAMPLE] if are_messages(found := row.fields.get(name))), None)
    try:
        return first is not None and all_messages(first)[0].role != "assistant"
    except UserError:
        return False


def _untrained(messages: Sequence[Message]) -> list[Message]:
    return [replace(message, trained=False) for message in messages]
