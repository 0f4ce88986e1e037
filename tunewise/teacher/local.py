"""A teacher on this machine: any base that writes, a batch of requests at a time."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from tunewise.data.encode import encode_prompt
from tunewise.data.written import SeparateIds
from tunewise.engine.decoding import Choose, Decoding, Sampling, decode
from tunewise.engine.writing import write
from tunewise.errors import UserError
from tunewise.models.families import ENCODER_DECODER, WRITERS
from tunewise.models.load import Base
from tunewise.teacher.budget import Budget
from tunewise.teacher.exchange import Reply, Request
from tunewise.teacher.teacher import Stopping


@dataclass(frozen=True)
class _Drawing(Sampling):
    """Draws for each prompt by the key of its request, so that no answer depends on what else is asked, and counts."""

    keys: tuple[str, ...] = ()
    end_id: int | None = None
    takes_best: bool = False
    """The most probable token is taken, and nothing drawn."""
    n_written: Counter[int] = field(default_factory=Counter)
    """Tokens of each answer, the end among them."""
    ended: set[int] = field(default_factory=set)
    """Answers that came to their end by themselves."""

    def chooser(self) -> Choose:
        draw = super().chooser()
        numbers = [int.from_bytes(key.encode()) for key in self.keys]

        def choose(logits: Tensor, prompts: Sequence[int]) -> Tensor:
            best = logits.argmax(dim=-1) if self.takes_best else None
            tokens = draw(logits, [numbers[index] for index in prompts]) if best is None else best
            for index, token in zip(prompts, tokens.tolist(), strict=True):
                if index not in self.ended:  # an encoder-decoder writes on until its whole batch has ended
                    self.n_written[index] += 1
                    self.ended.update([index] if token == self.end_id else [])
            return tokens

        return choose


class Local:
    """A base that answers; through its chat template where it has one. UserError for a base that writes nothing.

    A prompt that does not fit beside its answer loses its beginning, and an answer has half of the context at most.
    """

    def __init__(self, base: Base, *, seed: int = 0, batch_size: int = 16) -> None:
        if base.anatomy.kind not in WRITERS or base.head.kind != "lm" or base.tokenizer is None:
            raise UserError(f"{base.name} writes no text", "give a decoder or an encoder-decoder as the teacher")
        self._base, self._tokenizer = base, base.tokenizer
        self._seed, self._batch_size = seed, batch_size

    @property
    def name(self) -> str:
        """The base's, and what tells its weights from those of another training."""
        return f"{Path(self._base.name).name}@{self._base.fingerprint[:8]}"

    @property
    def chats(self) -> bool:
        """Whether it is asked through a chat template."""
        return bool(self._tokenizer.chat_template)

    def replies(
        self, requests: Sequence[Request], budget: Budget, stopping: Stopping
    ) -> Iterator[tuple[Request, Reply]]:
        """As a Teacher does; requests that are alike in how they are decoded share a batch."""
        waiting = list(requests)
        while waiting and not stopping():
            alike = [one for one in waiting if _manner(one) == _manner(waiting[0])][: self._batch_size]
            batch = []
            for request in alike:
                if not budget.admits(request):
                    break
                budget.sends()
                batch.append(request)
            if not batch:
                return
            for request, reply in zip(batch, self._answer(batch), strict=True):
                budget.settle(request, reply)
                yield request, reply
            waiting = [one for one in waiting if one not in batch]

    def _answer(self, batch: Sequence[Request]) -> list[Reply]:
        first = batch[0]
        longest = self._base.longest
        n_new = min(first.max_tokens, longest // 2) if longest else first.max_tokens
        prompts = [self._ids(request.text, longest - n_new if longest else None) for request in batch]
        drawing = _Drawing(
            first.temperature or 1.0, first.top_p, self._seed, keys=tuple(request.key for request in batch),
            end_id=self._tokenizer.eos_token_id, takes_best=not first.temperature,
        )  # fmt: skip
        how = Decoding(n_new, first.stops, drawing)
        if self._base.anatomy.kind == ENCODER_DECODER:
            texts = write(self._base, prompts, how, batch_size=self._batch_size)
        else:
            texts = decode(self._base.model, self._tokenizer, prompts, how, batch_size=self._batch_size)
        return [
            Reply(
                text,
                prompt_tokens=len(ids),
                completion_tokens=drawing.n_written[index],
                was_cut=drawing.n_written[index] == n_new and index not in drawing.ended,
            )
            for index, (text, ids) in enumerate(zip(texts, prompts, strict=True))
        ]

    def _ids(self, text: str, room: int | None) -> list[int]:
        if self.chats:
            turns = [{"role": "user", "content": text}]
            text = str(self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        if self._base.anatomy.kind == ENCODER_DECODER:
            return SeparateIds(self._tokenizer).prompt(text)[:room]
        ids = encode_prompt(text, self._tokenizer)
        if room is None or len(ids) <= room:
            return ids
        begin = 1 if ids[0] == self._tokenizer.bos_token_id else 0
        return ids[:begin] + ids[len(ids) - room + begin :]


def _manner(request: Request) -> tuple[int, tuple[str, ...], float, float]:
    return request.max_tokens, request.stops, request.temperature, request.top_p
