"""Answers that begin and end while others are written, as a server writes them: by one model, or by lanes of it.

Packed, where the decoder runs so: a prompt is read in the row in which the others write their next token, as soon as
the cache has a stretch for it (continuous batching: Yu et al. 2022, Orca, OSDI, section 3). Else those that wait are
read together once all of the batch before have ended.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from tunewise.engine.decoding import Answer, Choose, PaddedBatch, Piece, most_probable, step_packed
from tunewise.engine.owners import ALONE, Owner, Owners
from tunewise.engine.packed_reading import TOKENS, Reader
from tunewise.engine.packing import packed_attention
from tunewise.engine.prefill import prefill
from tunewise.engine.weighed import Weighed, weighed
from tunewise.engine.writing import read_batches, write_batch
from tunewise.methods.lanes import Lanes
from tunewise.models.families import ENCODER_DECODER
from tunewise.models.load import Base

FIRST_SLOTS = 1024
"""Of a cache before it grows."""


@dataclass(frozen=True)
class Wanted:
    """One answer that is to be written."""

    lane: int
    prompt: Sequence[int]
    """Ids, the virtual tokens of the lane among them."""
    answer: Answer
    max_new_tokens: int
    choose: Choose = most_probable
    number: int = 0
    """What `choose` is told as the number of the prompt."""
    n_best: int | None = None
    """How many of the most probable tokens are `weighed` beside each that is written; None weighs none."""
    weighed: list[Weighed] = field(default_factory=list)
    """Its tokens, and the one that ended it."""
    is_given_up: Callable[[], bool] = lambda: False
    """Asked at each token: whether nobody waits for more of it."""

    @property
    def n_tokens(self) -> int:
        """Places of the cache that it takes at most."""
        return len(self.prompt) + self.max_new_tokens


class Writing(Protocol):
    """Answers that are being written."""

    @property
    def is_busy(self) -> bool: ...

    def add(self, wanted: Wanted) -> bool:
        """Begin with this one; False where there is no place for it now."""
        ...

    def step(self) -> None:
        """Write the next token of each, or as much as is written at once."""
        ...


def writing(base: Base, lanes: Lanes | None, is_packed: bool, n_places: int, n_slots: int) -> Writing:
    """Nothing yet, with places for so many answers at a time; of a packed decoder all of them have at most `n_slots`
    tokens. Without `lanes` the model writes with what is attached to it."""
    if base.anatomy.kind == ENCODER_DECODER:
        return _Whole(base, lanes, n_places)
    return _Packed(base, lanes, n_places, n_slots) if is_packed else _Padded(base, lanes, n_places)


class _Places:
    """Numbered places, each of which holds an answer, or none."""

    def __init__(self, lanes: Lanes | None, n_places: int) -> None:
        self.held: dict[int, Wanted] = {}
        self._n_places, self._of = n_places, [0] * n_places
        self.owners: Owner = ALONE if lanes is None else Owners(lanes, self._of)

    def put(self, wanted: Wanted) -> int | None:
        """The place that it was put on, if one was free: the first."""
        place = next((place for place in range(self._n_places) if place not in self.held), None)
        if place is not None:
            self.held[place], self._of[place] = wanted, wanted.lane
        return place

    def choose(self, logits: Tensor, places: Sequence[int]) -> Tensor:
        """As each of them wants it."""
        chosen = logits.argmax(dim=-1)
        for row, place in enumerate(places):
            wanted = self.held[place]
            if wanted.choose is not most_probable:
                chosen[row] = wanted.choose(logits[row : row + 1], [wanted.number])[0]
            if wanted.n_best is not None and not wanted.answer.ended:
                wanted.weighed.extend(weighed(logits[row : row + 1], [int(chosen[row])], wanted.n_best))
        return chosen

    def take(self, place: int, token: int) -> bool:
        wanted = self.held[place]
        if wanted.is_given_up():
            wanted.answer.give_up()
        return wanted.answer.take(token)


class _Packed:
    def __init__(self, base: Base, lanes: Lanes | None, n_places: int, n_slots: int) -> None:
        self._model, self._places, self._most_slots = base.model, _Places(lanes, n_places), n_slots
        self._n_slots = min(FIRST_SLOTS, n_slots)
        self._reader = Reader(base.model, [()], self._n_slots)
        self._taken: dict[int, int] = {}
        self._new: list[Piece] = []
        self._running: list[Piece] = []

    @property
    def is_busy(self) -> bool:
        return bool(self._new or self._running)

    def add(self, wanted: Wanted) -> bool:
        slot = self._stretch(wanted.n_tokens)
        if slot is None or sum(len(piece.tokens) for piece in self._new) >= TOKENS:
            return False
        place = self._places.put(wanted)
        if place is None:
            return False
        self._taken[slot] = wanted.n_tokens
        self._new.append(Piece(place, slot, 0, wanted.prompt))
        return True

    def _stretch(self, n: int) -> int | None:
        """Where so many slots are free in a row: the first such place."""
        first = 0
        for start, length in sorted(self._taken.items()):
            if start - first >= n:
                break
            first = start + length
        return first if first + n <= self._most_slots else None

    @torch.no_grad()
    def step(self) -> None:
        needed = max(slot + length for slot, length in self._taken.items())
        if needed > self._n_slots:
            self._n_slots = min(self._most_slots, max(needed, 2 * self._n_slots))
            self._reader.grow(self._n_slots)
        pieces = [*self._running, *self._new]
        with packed_attention(self._model):
            places = self._places
            self._running, ended = step_packed(self._reader, places.owners, pieces, places.choose, places.take)
        self._new = []
        for piece in ended:
            del self._taken[piece.slot], self._places.held[piece.prompt]


class _Padded:
    def __init__(self, base: Base, lanes: Lanes | None, n_places: int) -> None:
        self._base, self._places = base, _Places(lanes, n_places)
        self._batch: PaddedBatch | None = None

    @property
    def is_busy(self) -> bool:
        return bool(self._places.held)

    def add(self, wanted: Wanted) -> bool:
        return self._batch is None and self._places.put(wanted) is not None

    @torch.no_grad()
    def step(self) -> None:
        held, places = self._places.held, self._places
        if self._batch is None:
            prompts, pad_id = [held[place].prompt for place in range(len(held))], self._base.tokenizer.pad_token_id
            (read,) = prefill(
                self._base.model, prompts, pad_id=pad_id, batch_size=len(prompts), owners=places.owners
            )  # fmt: skip
            self._batch, self._rows = PaddedBatch(self._base.model, read), read.indices
        with places.owners.as_rows(self._rows):
            goes_on = self._batch.step(places.choose, places.take)
        if not goes_on:
            self._batch = None
            held.clear()


class _Whole:
    """Of an encoder-decoder: all answers of a batch at once."""

    def __init__(self, base: Base, lanes: Lanes | None, n_places: int) -> None:
        self._base, self._places = base, _Places(lanes, n_places)

    @property
    def is_busy(self) -> bool:
        return bool(self._places.held)

    def add(self, wanted: Wanted) -> bool:
        return self._places.put(wanted) is not None

    @torch.no_grad()
    def step(self) -> None:
        held, places = self._places.held, self._places
        prompts = [held[place].prompt for place in range(len(held))]
        longest = max(wanted.max_new_tokens for wanted in held.values())
        for indices, inputs in read_batches(self._base, prompts, (), len(prompts), places.owners):
            with places.owners.as_rows(indices):
                write_batch(self._base, inputs, indices, longest, places.choose, places.take)
        held.clear()
