"""What a request asks of the model that it names: ids and how they are gone on with, or answers to choose among."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tunewise.data.examples import Example
from tunewise.data.messages import Message, all_messages
from tunewise.data.typed import (
    TYPED,
    columns_of,
    free_task,
    may_be_empty,
    next_turn,
    question_in,
    told_in,
    typed_example,
)
from tunewise.engine.decoding import Decoding
from tunewise.errors import UserError
from tunewise.evaluation.by_source import BySource
from tunewise.evaluation.evaluate import written
from tunewise.evaluation.questions import LabelledRows, Questions
from tunewise.methods.selective.frozen import Frozen
from tunewise.models.families import ENCODER_DECODER
from tunewise.run.speakers import WRITES, Speaker, Speakers
from tunewise.serve.fields import Chat, Completion
from tunewise.serve.refusal import TOO_LONG, Refusal, no_such_model, refusal_of


@dataclass(frozen=True)
class Question:
    """One thing that one model is asked."""

    lane: int
    example: Example
    ids: tuple[int, ...]
    """All that is read, virtual tokens aside."""
    how: Decoding | None
    """How its answer is written; None where one is chosen."""
    is_raw: bool = False
    """Whether the answer is told as it is written, white space at its ends and all."""
    echo: str = ""
    """What is told before each answer."""


def refuse_unserved(speakers: Speakers) -> None:
    """UserError where one of them cannot be asked over HTTP."""
    for speaker in speakers.each:
        columns_of(speaker.task)
        if speaker.task.reads_images:
            raise UserError(f"{speaker.name} reads images, which are not served", "ask it by tunewise chat")


def questions_of(speakers: Speakers, request: Chat | Completion, n_slots: int) -> list[Question]:
    """The questions of a request, none of which has more than `n_slots` tokens with its answer.

    Raises Refusal for a model that is not there, for what it cannot be asked, and for what does not fit.
    """
    names = [speaker.name for speaker in speakers.each]
    if request.model not in names:
        raise no_such_model(request.model, names)
    lane = names.index(request.model)
    speaker = speakers.each[lane]
    param = "messages" if isinstance(request, Chat) else "prompt"
    try:
        if isinstance(request, Chat):
            found = [_chat(speakers, lane, request)]
        else:
            found = list(_raw(speakers, lane, request))
    except UserError as error:
        raise refusal_of(error, param) from error
    n_virtual = len(speaker.how.prefix_ids)
    for question in found:
        n_tokens = n_virtual + len(question.ids) + (question.how.max_new_tokens if question.how else 0)
        if n_tokens > n_slots:
            raise Refusal(
                f"prompt and answer may have {n_tokens} tokens, and there is room for {n_slots}; "
                "ask for fewer (max_tokens), or serve with a larger --cache-tokens", param=param, code=TOO_LONG,
            )  # fmt: skip
    return found


def _chat(speakers: Speakers, lane: int, request: Chat) -> Question:
    speaker = _as_long(speakers.each[lane], request.longest)
    example = _asked(speaker, all_messages(request.messages))
    return _question(speakers, lane, speaker, example, request)


def _raw(speakers: Speakers, lane: int, request: Completion) -> Iterator[Question]:
    """Each prompt as it is, without template or demonstrations."""
    base, speaker = speakers.base, speakers.each[lane]
    if base.head.kind != "lm" or base.tokenizer is None:
        raise UserError(f"{speaker.name} answers by a new head, which writes no text", "ask it by /v1/chat/completions")
    task = replace(free_task(base.tokenizer), chat=None)
    bare = speaker.recipe.model_copy(update={"method": Frozen()})
    bare_speaker = _as_long(replace(speaker, task=task, recipe=bare), request.longest)
    if request.echo and request.n_best is not None and base.anatomy.kind == ENCODER_DECODER:
        raise UserError(f"{base.name} reads a prompt without expecting it", "leave logprobs or echo out")
    for prompt in request.prompt:
        text, ids = (prompt, None) if isinstance(prompt, str) else (str(base.tokenizer.decode(prompt)), prompt)
        if ids is not None and max(ids) >= base.anatomy.vocab_size:
            raise UserError(f"there is no token {max(ids)}", f"{base.name} knows those below {base.anatomy.vocab_size}")
        example = typed_example(task, {TYPED: "" if ids else text})
        found = _question(speakers, lane, bare_speaker, example, request, ids)
        yield replace(found, is_raw=True, echo=text if request.echo else "")


def _as_long(speaker: Speaker, longest: int | None) -> Speaker:
    """The same, with answers of so many tokens at most."""
    return speaker if longest is None else replace(speaker, task=replace(speaker.task, max_new_tokens=longest))


def _asked(speaker: Speaker, messages: list[Message]) -> Example:
    """The conversation as the task asks it: all of it by a chat template, else the last message as a row."""
    task, last = speaker.task, messages[-1]
    if last.role == "assistant":
        raise UserError("the last message is the assistant's", "end with a message of the user")
    if task.chat is not None:
        return next_turn(task.chat, messages)
    if any(message.role == "system" for message in messages):
        raise UserError(
            f"a system prompt belongs to a conversation, and {speaker.name} was asked for none", "leave it out"
        )
    return typed_example(task, told_in(question_in(last.content.strip()), columns_of(task), may_be_empty(task)))


def _question(
    speakers: Speakers,
    lane: int,
    speaker: Speaker,
    example: Example,
    request: Chat | Completion,
    as_ids: list[int] | None = None,
) -> Question:
    """The example as this one reads it; `as_ids` are read in place of its prompt."""
    found = speaker.questions(speakers.base, [example])
    assert not isinstance(found, BySource)
    if as_ids is not None:
        assert isinstance(found, Questions)
        found = replace(found, prompts=[as_ids])
    if isinstance(found, LabelledRows):
        (row,) = found.rows
        ids, is_cut = tuple(row.ids), row.truncated
    else:
        ids, is_cut = tuple(found.prompts[0]), found.truncated[0]
    how = None
    if isinstance(found, Questions) and speaker.task.kind in WRITES:
        how = _how(speakers, speaker, found, request)
        longest = speaker.written_at_most(speakers.base, found)
        if request.longest is None and longest > 0:
            how = replace(how, max_new_tokens=longest)
        is_cut = is_cut or how.max_new_tokens > longest
    if how is None and request.n_best is not None:
        raise Refusal(
            f"{speaker.name} chooses among given answers, and tells their probabilities without logprobs",
            param="logprobs", code="unsupported_parameter",
        )  # fmt: skip
    if is_cut:
        told = f" and an answer of up to {how.max_new_tokens} tokens do" if how else " does"
        raise Refusal(
            f"the prompt{told} not fit into the context of {speakers.base.longest}; shorten it"
            + (", or ask for fewer: max_tokens" if how else ""),
            param="messages" if isinstance(request, Chat) else "prompt", code=TOO_LONG,
        )  # fmt: skip
    return Question(lane, example, ids, how)


def _how(speakers: Speakers, speaker: Speaker, found: Questions, request: Chat | Completion) -> Decoding:
    asking = speaker.recipe.asking
    how = written(speakers.base, found, asking).how
    sampling = request.sampling(asking.sampling, secrets.randbits(63))
    return replace(how, stops=(*how.stops, *request.stops), sampling=sampling)
