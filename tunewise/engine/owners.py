"""Whose prompts a batch holds: those of one model, or those of several lanes, each of which is read by its own."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import groupby

from tunewise.methods.lanes import Lanes, Part, Parts


class Owner:
    """One model, with whatever is attached to it, reads all prompts."""

    shares_beginnings = True
    """Whether what all prompts begin with is read once for all of them."""

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

    A prompt holds the virtual tokens of its lane, and is read whole: nothing that it begins with is known of another.
    """

    shares_beginnings = False

    def __init__(self, lanes: Lanes, of: Sequence[int]) -> None:
        self._lanes, self._of = lanes, of

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
            parts.append(Part(lane, sum(sizes[i] for i in places), sum(head_sizes[i] for i in places)))
        return self._lanes.at(Parts(dim, tuple(parts)))
