"""Greedy and sampled decoding of many prompts at a time.

Packed, where the decoder runs so: in each step the newest token of every running answer, and the prompts that take the
places of ended ones, are one row of tokens; keys and values stand in a cache of one stretch of slots a lane. Else
padded, in batches of like length, behind the cache of transformers.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tunewise.engine.growing_text import GrowingText
from tunewise.engine.loss import wide
from tunewise.engine.owners import ALONE, Apart, Owner
from tunewise.engine.packed_reading import TOKENS, Reader, Row, reading, why_not_read
from tunewise.engine.prefill import Prefilled, prefill
from tunewise.errors import UserError

Choose = Callable[[Tensor, Sequence[int]], Tensor]
"""Logits (B, vocabulary) and the numbers of the prompts they belong to -> the next token of each, (B,)."""
Take = Callable[[int, int], bool]
"""The number of a prompt, and the next token behind it -> whether its answer goes on."""

COLDEST = 1e-6
"""Below it the most probable token is drawn as good as always, and logits over it would be infinite."""
REFILL = 4
"""New prompts are read when one in so many lanes is free: one at a time would make many small rows."""


@dataclass(frozen=True)
class Sampling:
    """Tokens drawn from softmax(logits / temperature), cut to the `top_k` most probable ones, and of those to the most
    probable ones that together hold `top_p` of them.

    Holtzman et al. 2020, arXiv:1904.09751, section 3. Each prompt draws from a generator of its own, made of the seed
    and its number, so that its answer does not depend on what it is batched with.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    top_k: int | None = None

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise UserError(f"temperature is {self.temperature}", "set it above 0, or decode greedily")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}", "set it above 0 and to 1 at most")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k is {self.top_k}", "set it to 1 at least, or leave it out")

    def chooser(self) -> Choose:
        """What draws the tokens of one round of prompts."""
        generators: dict[int, random.Random] = {}

        def choose(logits: Tensor, prompts: Sequence[int]) -> Tensor:
            drawn = [generators.setdefault(i, random.Random(f"sample {self.seed} {i}")).random() for i in prompts]
            cooled = wide(logits) / max(self.temperature, COLDEST)
            probabilities, ids = cooled.softmax(dim=-1).sort(dim=-1, descending=True)
            if self.top_k is not None:
                probabilities = probabilities[:, : self.top_k]
                probabilities = probabilities / probabilities.sum(dim=-1, keepdim=True)
            within = probabilities.cumsum(dim=-1) - probabilities < self.top_p
            upto = torch.where(within, probabilities, 0.0).cumsum(dim=-1)
            points = torch.tensor(drawn, dtype=upto.dtype, device=upto.device)[:, None] * upto[:, -1:]
            place = torch.minimum((upto <= points).sum(dim=-1), within.sum(dim=-1) - 1)
            place = place.clamp(min=0)  # of a model whose logits are no numbers none is within
            return ids.gather(1, place[:, None])[:, 0]

        return choose


def most_probable(logits: Tensor, prompts: Sequence[int]) -> Tensor:
    """What is chosen where nothing is drawn."""
    return logits.argmax(dim=-1)


@dataclass(frozen=True)
class Decoding:
    """How long an answer is, and how its tokens are chosen.

    It ends before the first of its end tokens, before the first of the `stops` in its text, or after
    `max_new_tokens`.
    """

    max_new_tokens: int
    stops: tuple[str, ...] = ()
    sampling: Sampling | None = None
    """None takes the most probable token."""
    ends: tuple[int, ...] = ()
    """Ids that end an answer beside the end-of-sequence tokens, such as a chat template's."""

    def cut(self, text: str) -> str:
        """What stands before the first stop."""
        return text[: min((text.index(stop) for stop in self.stops if stop in text), default=len(text))]


def greedy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    prefix_ids: Sequence[int] = (),
    stop: str = "",
    batch_size: int = 16,
) -> list[str]:
    """The most probable continuation of each prompt, as `decode` writes it."""
    how = Decoding(max_new_tokens, (stop,) if stop else ())
    return decode(model, tokenizer, prompts, how, prefix_ids=prefix_ids, batch_size=batch_size)


@torch.no_grad()
def decode(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    how: Decoding,
    *,
    prefix_ids: Sequence[int] = (),
    batch_size: int = 16,
    packing: bool = True,
    owners: Owner = ALONE,
) -> list[str]:
    """A continuation of each prompt (token ids), as text, in the order given; `batch_size` are written at a time.

    Without `packing` prompts are padded, whatever the model. Tokens that are drawn are drawn by the prompts' numbers.
    """
    if not prompts or how.max_new_tokens < 1:
        return [""] * len(prompts)
    choose = most_probable if how.sampling is None else how.sampling.chooser()
    ends = end_ids(model, tokenizer)
    answers = [Answer(tokenizer, ends, how) for _ in prompts]

    def take(prompt: int, token: int) -> bool:
        return answers[prompt].take(token)

    if not packing or why_not_read(model, prefix_ids):
        pad_id = tokenizer.pad_token_id
        for read in prefill(model, prompts, pad_id=pad_id, prefix_ids=prefix_ids, batch_size=batch_size, owners=owners):
            with owners.as_rows(read.indices):
                batch = PaddedBatch(model, read)
                while batch.step(choose, take):
                    pass
    else:
        apart = owners.split_off(prompts, prefix_ids)
        lanes = _Lanes(apart, batch_size, how.max_new_tokens, owners)
        with reading(model, apart.beginnings, lanes.n_slots, apart.whose) as reader:
            while lanes.is_busy:
                lanes.step(reader, choose, take)
    return [answer.text for answer in answers]


class Answer:
    """What is written behind one prompt, and when it is enough."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, ends: AbstractSet[int], how: Decoding) -> None:
        self._tokenizer, self._ends, self._how = tokenizer, {*ends, *how.ends}, how
        self.tokens: list[int] = []
        """Without the one that ends it."""
        self.ended: Literal["", "stop", "length", "given up"] = ""
        """Why nothing is written any more: an end token or a stop came, or as many tokens as it may have."""
        self._before_stop: str | None = None
        self._growing = GrowingText(tokenizer)

    def take(self, token: int) -> bool:
        """Whether it goes on behind this token."""
        if self.ended:
            return False
        if token in self._ends:
            self.ended = "stop"
            return False
        self.tokens.append(token)
        if len(self.tokens) >= self._how.max_new_tokens:
            self.ended = "length"
        if self._how.stops:
            text = self.text
            if (before := self._how.cut(text)) != text:
                self._before_stop, self.ended = before, "stop"
        return not self.ended

    def give_up(self) -> None:
        """Take no token any more."""
        self.ended = self.ended or "given up"

    @property
    def text(self) -> str:
        """What is written so far."""
        if self._before_stop is not None:
            return self._before_stop
        if not self.ended:
            return self._growing.of(self.tokens)
        text = self._tokenizer.decode(self.tokens, skip_special_tokens=True)
        assert isinstance(text, str)
        return text


class Piece(NamedTuple):
    """What the next row holds of a prompt and its answer."""

    prompt: int
    slot: int
    """Where its stretch of the cache begins."""
    n_before: int
    """Tokens of it in the cache."""
    tokens: Sequence[int]
    behind: int = 0
    """The number of its beginning."""


def step_packed(
    reader: Reader, owners: Owner, pieces: Iterable[Piece], choose: Choose, take: Take
) -> tuple[list[Piece], list[Piece]]:
    """Read these in one row and write a token behind each: those that go on with it, and those that have ended."""
    of_prompt = {piece.prompt: piece for piece in pieces}
    prompts = owners.sorted(of_prompt)
    held = [of_prompt[prompt] for prompt in prompts]
    row, wanted = Row(reader.n_begin), []
    for piece in held:
        first = row.add(piece.tokens, (piece.slot, piece.n_before), piece.slot + piece.n_before, piece.behind)
        wanted.append(first + len(piece.tokens) - 1)
    with owners.in_a_row(prompts, [len(piece.tokens) for piece in held], [1] * len(held)):
        logits = reader.logits(row, wanted)
    going_on, ended = [], []
    for piece, token in zip(held, choose(logits, prompts).tolist(), strict=True):
        if take(piece.prompt, token):
            going_on.append(piece._replace(n_before=piece.n_before + len(piece.tokens), tokens=(token,)))
        else:
            ended.append(piece)
    return going_on, ended


class _Lanes:
    """Prompts, the longest first, on a fixed number of lanes, each with slots of the cache for one answer."""

    def __init__(self, apart: Apart, n_lanes: int, max_new_tokens: int, owners: Owner) -> None:
        self._prompts, self._behind, self._owners = apart.rests, apart.behind, owners
        prompts = apart.rests
        self._waiting = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        n_lanes = min(n_lanes, len(prompts))
        self._n_lanes = n_lanes
        room = max(map(len, prompts)) + max_new_tokens
        self._free = [lane * room for lane in range(n_lanes)]
        self._running: list[Piece] = []
        self.n_slots = n_lanes * room

    @property
    def is_busy(self) -> bool:
        return bool(self._waiting or self._running)

    def step(self, reader: Reader, choose: Choose, take: Take) -> None:
        """One row: the newest token of each answer, and new prompts where enough lanes are free."""
        pieces = [*self._running, *self._new(len(self._running))]
        self._running, ended = step_packed(reader, self._owners, pieces, choose, take)
        self._free += [piece.slot for piece in ended]

    def _new(self, n_tokens: int) -> Iterator[Piece]:
        """Prompts that wait, for free lanes, beside so many tokens of a row."""
        if self._running and len(self._free) * REFILL < self._n_lanes:
            return
        while self._waiting and self._free and n_tokens < TOKENS:
            prompt = self._waiting.pop()
            n_tokens += len(self._prompts[prompt])
            yield Piece(prompt, self._free.pop(), 0, self._prompts[prompt], self._behind[prompt])


class PaddedBatch:
    """Answers behind the prompts of a padded batch, which are its rows until all of them have ended."""

    def __init__(self, model: PreTrainedModel, read: Prefilled) -> None:
        self._model, self._prompts = model, read.indices
        self._logits, self._mask, self._positions, self._cache = read.logits, read.mask, read.positions, read.cache
        self._chosen: Tensor | None = None
        self._running = set(range(len(read.indices)))

    @torch.no_grad()
    def step(self, choose: Choose, take: Take) -> bool:
        """Write a token behind each prompt; whether any answer goes on."""
        if self._chosen is not None:
            self._read(self._chosen)
        self._chosen = choose(self._logits, self._prompts)
        for row, token in enumerate(self._chosen.tolist()):
            if row in self._running and not take(self._prompts[row], token):
                self._running.discard(row)
        return bool(self._running)

    def _read(self, tokens: Tensor) -> None:
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), 1)], dim=1)
        # a row whose answer has ended stays where it is: it may have reached the last position that there is
        goes_on = torch.tensor([row in self._running for row in range(len(tokens))], device=tokens.device)
        self._positions = self._positions + goes_on[:, None]
        out = self._model(
            input_ids=tokens[:, None],
            attention_mask=self._mask,
            position_ids=self._positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._logits, self._cache = out.logits[:, -1], out.past_key_values


def end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The ids that end an answer: the tokenizer's, and those the model's own generation settings name."""
    named = model.generation_config.eos_token_id if model.generation_config is not None else None
    own = named if isinstance(named, list) else [named]
    return {i for i in [tokenizer.eos_token_id, *own] if i is not None}
