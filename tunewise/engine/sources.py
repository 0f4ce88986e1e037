"""Whose each training row is, and which rows make up each batch: an order that is a pure function of (seed, epoch).

Rows of one source stand behind one another. Where the sources have no rates, an epoch is every row once, shuffled. With
rates, every stretch of draws from the first on has each source's share of it to within one row (`interleaved`), and a
source gives each of its rows once, shuffled, before any comes again, wherever epochs end.
"""

from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate, islice

from tunewise.data.mixing import interleaved
from tunewise.engine.batches import epoch_batches, order


class Sources:
    """The sources of training rows, in the order of their rows."""

    def __init__(self, sizes: Mapping[str, int], rates: Sequence[float] = (), drawn: int | None = None) -> None:
        """`sizes`: name -> how many rows; `rates`: shares of the draws, with the sum 1, or () for every row once an
        epoch; `drawn`: draws of one epoch, None for as many as there are rows."""
        self.names, self.sizes, self.rates = tuple(sizes), tuple(sizes.values()), tuple(rates)
        self.n = sum(self.sizes) if drawn is None else drawn
        """Rows of one epoch."""
        self._firsts = tuple(accumulate(self.sizes[:-1], initial=0))
        self._stream, self._of_draws = interleaved(self.rates), array("I")
        self._passes: dict[int, tuple[tuple[int, int], list[int]]] = {}

    def of(self, row: int) -> int:
        """The number of the source of a row."""
        return bisect_right(self._firsts, row) - 1

    def batches(self, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
        """The row numbers of each batch of one epoch, drawn without regard to their lengths."""
        if not self.rates:
            return epoch_batches(self.n, batch_size, seed, epoch)
        rows = self.epoch(seed, epoch)
        return [rows[start : start + batch_size] for start in range(0, self.n, batch_size)]

    def epoch(self, seed: int, epoch: int) -> list[int]:
        """The row numbers of one epoch, in their order."""
        if not self.rates:
            return order(self.n, seed, epoch)
        start, stop = epoch * self.n, (epoch + 1) * self.n
        self._of_draws.extend(islice(self._stream, max(0, stop - len(self._of_draws))))
        before, inside = self._of_draws[:start], self._of_draws[start:stop]
        each = []
        for source in range(len(self.sizes)):
            first = before.count(source)
            each.append(iter(self._drawn_of(source, first, first + inside.count(source), seed)))
        return [next(each[source]) for source in inside]

    def times(self, seed: int, n_draws: int) -> list[int]:
        """How often each row is among the first so many draws of a run."""
        found = [0] * sum(self.sizes)
        for epoch in range(-(-n_draws // self.n)):
            for row in self.epoch(seed, epoch)[: n_draws - epoch * self.n]:
                found[row] += 1
        return found

    def _drawn_of(self, source: int, start: int, stop: int, seed: int) -> list[int]:
        """Row numbers of a source's own draws `start` to `stop`: one shuffled pass over its rows after another."""
        first, size = self._firsts[source], self.sizes[source]
        rows: list[int] = []
        for number in range(start // size, -(-stop // size)):
            rows += self._pass(source, number, seed)[max(0, start - number * size) : stop - number * size]
        return [first + row for row in rows]

    def _pass(self, source: int, number: int, seed: int) -> list[int]:
        """The order of one pass over the rows of a source; the last one is kept, as the next epoch goes on with it."""
        if source not in self._passes or self._passes[source][0] != (seed, number):
            shuffled = order(self.sizes[source], f"{seed} {self.names[source]}", number)
            self._passes[source] = (seed, number), shuffled
        return self._passes[source][1]
