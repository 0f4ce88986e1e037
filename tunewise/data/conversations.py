"""Conversations -> text in parts, by a chat template: each answer behind what a serving program will write before it.

An answer is (prompt, said, end): what the template writes before it with its generation prompt, what the model has to
write, and the text of the token that ends the turn. The prompt is rendered for each answer anew, as serving does it.
Where prompt + said + end of an earlier answer is what a later prompt begins with, both stand in one text; where a
template changes earlier turns once later ones come (it drops thoughts, moves the system prompt into the last turn,
ends the last turn in another way), the earlier answer stands in a text of its own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from tunewise.data.chat_template import SENTINEL, ChatTemplate, Turn
from tunewise.data.examples import Example, Part
from tunewise.data.messages import Message
from tunewise.data.sandbox import Refused

ANSWERING = "assistant"
OPENED_TAG = re.compile(r"(<[^<>\s]+>)(\s*)$")
FOLDED = "system prompts written at the beginning of the first user's turn"
JOINED = "conversations with turns of one role in a row, joined by an empty line"
APART = "answers in texts of their own, because the template writes earlier turns in another way than last ones"
ENDLESS = "answers in texts of their own, because no token ends a turn of this template"
LEFT_OUT = "user's and system turns and calls of tools that the template leaves out or changes"
BESIDE_CALLS = "texts beside calls of tools that the template leaves out"
UNOPENED = "answers that do not go on from the template's generation prompt"


@dataclass(frozen=True)
class Answer:
    """One answer as serving sees it."""

    prompt: str
    said: str
    end: str

    @property
    def text(self) -> str:
        return self.prompt + self.said + self.end


@dataclass(frozen=True)
class Written:
    """A text in parts that ends with an answer; `end` is what stands behind it, "" where the end token has no text."""

    parts: tuple[Part, ...]
    end: str

    def example(self, identity: str, line: int, apart: tuple[Example, ...] = ()) -> Example:
        """The text as a row's example."""
        return Example(identity, self.parts, None, line, end=self.end, apart=apart)


class Conversations:
    """Writes conversations by one template for training, evaluation and serving, and counts what it had to change.

    `roles` are those whose turns are trained.
    """

    def __init__(self, template: ChatTemplate, roles: Sequence[str] = (ANSWERING,)) -> None:
        self.template = template
        self.roles = frozenset(roles)
        self.told: Counter[str] = Counter()
        self._latest: tuple[object, str] = (None, "")

    def opened(self, messages: Sequence[Message], tools: Sequence[Turn] = ()) -> str:
        """What is put before the next answer: the same text in serving as in training."""
        return self.template.render(_turns(self._accepted(messages, tools)), tools, opened=True)

    def example(self, identity: str, line: int, messages: Sequence[Message], tools: Sequence[Turn] = ()) -> Example:
        """A row's conversation as its example; see `written`."""
        *others, last = self.written(messages, tools)
        apart = (one.example(f"{identity}#{number}", line) for number, one in enumerate(others, start=1))
        return last.example(identity, line, tuple(apart))

    def written(self, messages: Sequence[Message], tools: Sequence[Turn] = ()) -> list[Written]:
        """The texts of one conversation that ends with an answer; the last of them holds its last answer.

        Raises Refused where the template does not want these turns, or writes an answer so that it cannot be found.
        """
        messages = self._accepted(messages, tools)
        turns = _turns(messages)
        answered = [index for index, message in enumerate(messages) if message.role == ANSWERING]
        wanted = [index for index in answered if messages[index].trained and ANSWERING in self.roles]
        if not wanted:
            return [self._without_answers(messages[: answered[-1] + 1], tools)]
        whole, others = self._other_spans(messages[: wanted[-1] + 1], tools)
        known: dict[int, Answer] = {}
        texts: list[Written] = []
        while wanted:
            *earlier, last = wanted
            turn = turns[: last + 1]
            answer = known.get(last) or self._answer(turn, tools, self._opened(turn, tools))
            if not answer.said.strip():
                raise Refused(f"{self.template.name} writes nothing of answer {last + 1}")
            spans = [(len(answer.prompt), len(answer.prompt) + len(answer.said))]
            wanted = []
            for index in earlier:
                found = known.get(index) or self._earlier(turns[: index + 1], tools, answer.prompt)
                known[index] = found
                if self._shares(found, answer):
                    spans.append((len(found.prompt), len(found.text)))
                else:
                    wanted.append(index)
            if not texts and others:
                if not answer.prompt.startswith(whole[: max(others)[1]]):
                    raise Refused(f"{self.template.name} writes earlier turns in another way when it opens an answer")
                spans += others
            texts.append(Written(tuple(_between(answer.prompt + answer.said, sorted(spans))), answer.end))
        self.told[APART if self.template.around.end else ENDLESS] += len(texts) - 1
        return texts[::-1]

    def sentence(self) -> str:
        """By which template, where its answers end, and what had to be changed."""
        end = self.template.around.end.strip()
        ends = f"its answers end with {end}" if end else "answers end with the tokenizer's end token"
        changes = "".join(f"; {count} {what}" for what, count in self.told.items() if count)
        return f"written by {self.template.name}, {ends}{changes}"

    def _shares(self, earlier: Answer, later: Answer) -> bool:
        """Whether the later prompt begins with the earlier answer, its end token included."""
        return bool(earlier.end or not self.template.tokens) and later.prompt.startswith(earlier.text)

    def _earlier(self, turns: list[Turn], tools: Sequence[Turn], later: str) -> Answer:
        """An answer that probably stands in a later prompt as the template usually writes it: one rendering."""
        around = self.template.around
        opened = self._opened(turns, tools)
        if opened is not None and set(turns[-1]) == {"role", "content"}:
            for said in _spellings(str(turns[-1]["content"])):
                answer = Answer(opened, around.lead + said, around.end)
                if said and later.startswith(answer.text):
                    return answer
        return self._answer(turns, tools, opened)

    def _answer(self, turns: list[Turn], tools: Sequence[Turn], opened: str | None) -> Answer:
        """The answer that the last turn is; `opened` is what a serving program writes before it, if it can."""
        whole = self._whole(turns, tools)
        around, content = self.template.around, str(turns[-1]["content"])
        for said in _spellings(content):
            if opened is not None and whole == opened + around.lead + said + around.tail:
                return Answer(opened, around.lead + said, around.end)
        place = self._place(turns, tools, -1, whole)
        if place is not None:
            start, stop = place
            before = whole[:start]
            if opened is None or not (before.startswith(opened) or (around.goes_on and before.endswith(around.lead))):
                self.told[UNOPENED] += 1
                opened, begin = before, start
            else:  # some templates show the system prompt only when they open an answer
                begin = len(opened) if before.startswith(opened) else start - len(around.lead)
            if set(turns[-1]) > {"role", "content"}:  # tool calls stand behind the content
                return Answer(opened, *self._cut(whole[begin:]))
            return Answer(opened, whole[begin:stop], self.template.end_of_answer(whole[stop:]))
        if opened is not None and whole.startswith(opened):
            rest = whole[len(opened) :]
            is_shown = _squeezed(_beyond(opened, content)) in _squeezed(rest)
            if is_shown or "tool_calls" in turns[-1]:
                self.told[BESIDE_CALLS] += not is_shown
                return Answer(opened, *self._cut(rest))
        if opened is not None and content.strip():
            # the template leaves out a part of what was said, such as thoughts: it does so with what it reads, and
            # the model is to write all of it
            return Answer(opened, _beyond(opened, content), around.end)
        raise Refused(f"{self.template.name} does not show where answer {len(turns)} begins")

    def _cut(self, rest: str) -> tuple[str, str]:
        """(what was said, the end) of what a template writes from the generation prompt on."""
        around = self.template.around
        if around.tail and rest.endswith(around.tail):
            return rest[: len(rest) - len(around.tail)], around.end
        bare = rest.rstrip()
        end = max((token for token in self.template.tokens if bare.endswith(token)), key=len, default="")
        return bare[: len(bare) - len(end)], end

    def _place(self, turns: Sequence[Turn], tools: Sequence[Turn], index: int, whole: str) -> tuple[int, int] | None:
        """Where in `whole` the content of a turn stands; None where the template does not write it as it is."""
        marked = list(turns)
        marked[index] = {**marked[index], "content": SENTINEL}
        try:
            before, found, behind = self.template.render(marked, tools).partition(SENTINEL)
        except Refused:
            return None
        for said in _spellings(str(turns[index]["content"])) if found else ():
            if whole == before + said + behind:
                return len(before), len(before) + len(said)
        return None

    def _without_answers(self, messages: Sequence[Message], tools: Sequence[Turn]) -> Written:
        """The text of a conversation of which only turns of other roles are trained, up to the last of these."""
        whole, spans = self._other_spans(messages, tools)
        if not spans:
            raise Refused(f"none of its turns is trained: data.roles names {', '.join(sorted(self.roles))}")
        *parts, last = _between(whole[: spans[-1][1]], spans)
        end = max((token for token in self.template.tokens if last.text.endswith(token)), key=len, default="")
        return Written((*parts, Part(last.text[: len(last.text) - len(end)], True)), end)

    def _other_spans(self, messages: Sequence[Message], tools: Sequence[Turn]) -> tuple[str, list[tuple[int, int]]]:
        """The text, and where trained turns of other roles stand, with an end like an answer's where it follows."""
        spans: list[tuple[int, int]] = []
        if self.roles <= {ANSWERING}:
            return "", spans
        turns = _turns(messages)
        whole = self._whole(turns, tools)
        for index, message in enumerate(messages):
            if message.role == ANSWERING or message.role not in self.roles or not message.content.strip():
                continue
            place = self._place(turns, tools, index, whole)
            if place is None:
                raise Refused(f"{self.template.name} does not show where turn {index + 1} ({message.role}) stands")
            start, stop = place
            end = self.template.around.end
            spans.append((start, stop + len(end) if whole.startswith(end, stop) else stop))
        return whole, spans

    def _whole(self, turns: list[Turn], tools: Sequence[Turn]) -> str:
        """The conversation as text; the latest one is kept, since it is asked for again."""
        if self._latest[0] != (turns, tools):
            self._latest = (turns, tools), self.template.render(turns, tools)
        return self._latest[1]

    def _opened(self, turns: Sequence[Turn], tools: Sequence[Turn]) -> str | None:
        try:
            return self.template.render(turns[:-1], tools, opened=True)
        except Refused:
            return None  # many templates refuse to open a conversation that has no turn yet

    def _accepted(self, messages: Sequence[Message], tools: Sequence[Turn]) -> Sequence[Message]:
        """The conversation in the first form that the template takes: as it is, else without a system turn, else
        without turns of one role in a row."""
        refused: Refused | None = None
        for form, changes in _forms(messages):
            try:
                whole = self._whole(_turns(form), tools)
            except Refused as error:
                refused = refused or error
            else:
                self.told.update(changes)
                self.told[LEFT_OUT] += sum(not _is_shown(turn, whole) for turn in _turns(form))
                return form
        assert refused is not None
        raise refused


def _forms(messages: Sequence[Message]) -> Iterator[tuple[Sequence[Message], tuple[str, ...]]]:
    yield messages, ()
    folded, joined = _folded(messages), _joined(messages)
    if len(folded) < len(messages):
        yield folded, (FOLDED,)
    if len(joined) < len(messages):
        yield joined, (JOINED,)
    if len(both := _joined(folded)) < len(folded) < len(messages):
        yield both, (FOLDED, JOINED)


def _folded(messages: Sequence[Message]) -> Sequence[Message]:
    """With the system prompt at the beginning of the user's first turn, as the makers of Gemma have it."""
    if len(messages) < 2 or messages[0].role != "system" or messages[1].role != "user":
        return messages
    system, first, *others = messages
    texts = [text for text in (system.content.strip(), first.content) if text]
    return [replace(first, content="\n\n".join(texts)), *others]


def _joined(messages: Sequence[Message]) -> Sequence[Message]:
    """With turns that follow one of the same role, and are trained alike, added to that one."""
    found: list[Message] = []
    for message in messages:
        before = found[-1] if found else None
        if (
            before is not None
            and (before.role, before.trained) == (message.role, message.trained)
            and message.role in ("user", "assistant", "system")
            and not any(set(turn) > {"role", "content"} for turn in _turns([before, message]))
        ):
            found[-1] = replace(before, content=f"{before.content}\n\n{message.content}")
        else:
            found.append(message)
    return found


def _turns(messages: Sequence[Message]) -> list[Turn]:
    return [message.plain() for message in messages]


def _is_shown(turn: Turn, text: str) -> bool:
    """Whether a text holds what a user or the system says, and the names of the tools that an assistant calls."""
    if any(call["function"]["name"] not in text for call in turn.get("tool_calls", ())):
        return False
    return turn["role"] not in ("user", "system") or turn["content"].strip() in text


def _spellings(content: str) -> tuple[str, ...]:
    """A content as it is, and as templates trim it."""
    return tuple(dict.fromkeys([content, content.strip(), content.rstrip(), content.lstrip()]))


def _beyond(opened: str, content: str) -> str:
    """The content without the tag that the generation prompt ends with, such as <think>, if it begins with it."""
    tag, content = OPENED_TAG.search(opened), content.strip()
    if tag is None or not content.startswith(tag[1]):
        return content
    return content.removeprefix(tag[1]).removeprefix(tag[2])


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _between(text: str, spans: Sequence[tuple[int, int]]) -> Iterator[Part]:
    """The text in parts, those in the spans (in order, none within another) trained."""
    at = 0
    for start, stop in spans:
        if at < start:
            yield Part(text[at:start], False)
        if start < stop:
            yield Part(text[start:stop], True)
        at = stop
    if at < len(text):
        yield Part(text[at:], False)
