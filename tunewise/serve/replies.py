"""What is sent back: one body for a whole answer, or a chunk for each piece of it, as OpenAI's API has them."""

import json
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from math import isfinite
from typing import Any

from tunewise.engine.growing_text import UNFINISHED
from tunewise.serve.fields import Chat, Completion
from tunewise.serve.job import Done, Piece, Token

END_OF_STREAM = "data: [DONE]\n\n"
LEAST = -9999.0
"""Stands for the logarithm of 0, and for one that is no number: JSON has neither, and OpenAI's API tells this one."""


class Reply:
    """The reply to one request, in its form: that of a chat, or that of a completion."""

    def __init__(self, request: Chat | Completion) -> None:
        self._is_chat, self._model = isinstance(request, Chat), request.model
        self._tells_usage = request.stream_options.include_usage
        self._id = f"{'chatcmpl' if self._is_chat else 'cmpl'}-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._begun: set[int] = set()
        self._tells_tokens = request.n_best is not None
        self._offsets: dict[int, int] = {}

    def whole(self, pieces: Iterable[Piece], done: Done) -> dict[str, Any]:
        """Of all pieces."""
        by_index: dict[int, list[Piece]] = {}
        for piece in pieces:
            by_index.setdefault(piece.index, []).append(piece)
        choices = []
        for _, held in sorted(by_index.items()):
            text = "".join(piece.text for piece in held)
            said = {"message": {"role": "assistant", "content": text, "refusal": None}}
            tokens = [token for piece in held for token in piece.tokens]
            choices.append(self._choice(said if self._is_chat else {"text": text}, held[-1], tokens))
        kind = "chat.completion" if self._is_chat else "text_completion"
        return {**self._head(kind), "choices": choices, "usage": _usage(done)}

    def chunks(self, event: Piece | Done) -> Iterator[str]:
        """Server-sent events of a piece, or of the end."""
        kind = "chat.completion.chunk" if self._is_chat else "text_completion"
        beside = {"usage": None} if self._tells_usage else {}
        if isinstance(event, Done):
            if self._tells_usage:
                yield sent({**self._head(kind), "choices": [], "usage": _usage(event)})
            yield END_OF_STREAM
            return
        if self._is_chat and event.index not in self._begun:  # the role in a chunk of its own, as clients expect it
            opening = {"index": event.index, "delta": {"role": "assistant", "content": ""}}
            choice = {**opening, "logprobs": None, "finish_reason": None}
            yield sent({**self._head(kind), "choices": [choice], **beside})
        self._begun.add(event.index)
        said = {"delta": {"content": event.text}} if self._is_chat else {"text": event.text}
        yield sent({**self._head(kind), "choices": [self._choice(said, event, event.tokens)], **beside})

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model}

    def _choice(self, said: dict[str, Any], last: Piece, tokens: Sequence[Token]) -> dict[str, Any]:
        told = None
        if self._tells_tokens:
            told = _of_chat(tokens) if self._is_chat else self._of_completion(last.index, tokens)
        found = {"index": last.index, **said, "logprobs": told, "finish_reason": last.finish or None}
        return found | ({"probabilities": dict(last.probabilities)} if last.probabilities else {})

    def _of_completion(self, index: int, tokens: Sequence[Token]) -> dict[str, Any]:
        """Lists, an entry for each token; where each begins is counted in the text."""
        offsets = []
        for token in tokens:
            offsets.append(self._offsets.get(index, 0))
            self._offsets[index] = offsets[-1] + len(token.text) * token.is_in_text
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [_finite(token.log_probability) for token in tokens],
            # of those with one text the best is told
            "top_logprobs": [
                None
                if token.log_probability is None
                else {text: _finite(value) for text, value in reversed(token.best)}
                for token in tokens
            ],
            "text_offset": offsets,
        }


def _of_chat(tokens: Sequence[Token]) -> dict[str, Any]:
    def told(text: str, value: float | None) -> dict[str, Any]:
        return {"token": text, "logprob": _finite(value), "bytes": None if UNFINISHED in text else [*text.encode()]}

    content = [
        {**told(token.text, token.log_probability), "top_logprobs": [told(*each) for each in token.best]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def _finite(value: float | None) -> float | None:
    return value if value is None or isfinite(value) else LEAST


def sent(body: dict[str, Any]) -> str:
    """As a server-sent event."""
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


def _usage(done: Done) -> dict[str, int]:
    read, written = done.prompt_tokens, done.completion_tokens
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
