"""Whose prompts a batch holds: those of one model, or those of several lanes, each of which is read by its own."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import groupby

from tunewise.engine.packed_reading import split_off
from tunewise.methods.lanes import Lanes, Part, Parts


@dataclass(frozen=True)
class Apart:
    """Prompts without what they begin with."""

    beginnings: list[Sequence[int]]
    behind: list[int]
    """The number of the beginning of each prompt."""
    rests: list[Sequence[int]]
    whose: AbstractContextManager[None]
    """Inside the block the model is given a row of all beginnings."""


class Owner:
    """One model, with whatever is attached to it, reads all prompts."""

    def split_off(self, prompts: Sequence[Sequence[int]], prefix_ids: Sequence[int]) -> Apart:
        """These prompts, each behind `prefix_ids`, without what those of one model all begin with."""
        shared, rests = split_off(prompts, prefix_ids)
        return Apart([shared], [0] * len(prompts), rests, nullcontext())

    def sorted(self, prompts: Iterable[int]) -> list[int]:
        """These numbers of prompts in the order in which a batch holds them."""
        return list(prompts)

    def in_a_row(
        self, prompts: Sequence[int], n_tokens: Sequence[int], n_wanted: Sequence[int]
    ) -> AbstractContextManager[None]:
        """Inside the block the model is given one row that holds, prompt by prompt, so many tokens, of which the head
        is given so many."""
        return nullcontext()

    def as_rows(self, prompts: Sequence[int], times: Sequence[int] | None = None) -> AbstractContextManager[None]:
        """Inside the block it is given a row for each of these prompts, or so many for each."""
        return nullcontext()


ALONE = Owner()


class Owners(Owner):
    """Prompt i is read by lane number `of[i]`, inside the block of `lanes`; a batch holds them lane by lane.

    A prompt holds the virtual tokens of its lane.
    """

    def __init__(self, lanes: Lanes, of: Sequence[int]) -> None:
        self._lanes, self._of = lanes, of

    def split_off(self, prompts: Sequence[Sequence[int]], prefix_ids: Sequence[int]) -> Apart:
        beginnings: list[Sequence[int]] = []
        behind, rests = [0] * len(prompts), [*prompts]
        lanes = sorted(set(self._of))
        for number, lane in enumerate(lanes):
            own = [i for i, each in enumerate(self._of) if each == lane]
            shared, of_lane = split_off([prompts[i] for i in own], prefix_ids)
            beginnings.append(shared)
            for i, rest in zip(own, of_lane, strict=True):
                behind[i], rests[i] = number, rest
        parts = [
            Part(lane, len(shared), 1, read_size=1) for lane, shared in zip(lanes, beginnings, strict=True) if shared
        ]
        return Apart(beginnings, behind, rests, self._lanes.at(Parts(1, tuple(parts))))

    def sorted(self, prompts: Iterable[int]) -> list[int]:
        return sorted(prompts, key=self._of.__getitem__)

    def in_a_row(
        self, prompts: Sequence[int], n_tokens: Sequence[int], n_wanted: Sequence[int]
    ) -> AbstractContextManager[None]:
        return self._at(1, prompts, n_tokens, n_wanted)

    def as_rows(self, prompts: Sequence[int], times: Sequence[int] | None = None) -> AbstractContextManager[None]:
        n_rows = [1] * len(prompts) if times is None else times
        return self._at(0, prompts, n_rows, n_rows)

    def _at(
        self, dim: int, prompts: Sequence[int], sizes: Sequence[int], head_sizes: Sequence[int]
    ) -> AbstractContextManager[None]:
        parts = []
        for lane, group in groupby(range(len(prompts)), key=lambda place: self._of[prompts[place]]):
            places = list(group)
            n_of_head = sum(head_sizes[i] for i in places)
            parts.append(Part(lane, sum(sizes[i] for i in places), n_of_head, read_size=n_of_head))
        return self._lanes.at(Parts(dim, tuple(parts)))
