"""What would fit where the plan as it was asked for does not: the smallest changes, by what they cost."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations

from tunewise.errors import UserError
from tunewise.methods import METHODS
from tunewise.methods.base import Method
from tunewise.models.quantise import format_of_checkpoint, of_layers
from tunewise.planning.fits import at_length, largest_rows, largest_tokens
from tunewise.planning.rehearsals import Rehearsals
from tunewise.planning.work import Memory, Work

GIVEN_UP = (
    "nothing",
    "precision of the moments",
    "precision of the base",
    "rank",
    "the ends of long rows",
    "the method",
)
"""From least to most, as changes of the same time are sorted."""
LEAST_TOKENS = 32
"""Shorter rows are no answer."""


@dataclass(frozen=True)
class Lever:
    """One thing to change beside the batch: as it is typed, and what it gives up."""

    typed: str
    change: Mapping[str, object]
    gives_up: str
    term: str = ""
    """The term of memory that it makes smaller."""


LEVERS = (
    Lever("train.checkpointing=true", {"checkpointing": True}, "nothing", "activations"),
    Lever("train.optimiser=adamw_8bit", {"optimiser": "adamw_8bit"}, "precision of the moments", "optimiser"),
    Lever("quantise=nf4", {"quantise": "nf4"}, "precision of the base", "weights"),
)
NARROWED = ("adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit")
"""Optimisers whose moments the second one narrows."""
OF_ENDS = Lever("quantise=nf4-ends8", {"quantise": "nf4-ends8"}, "precision of the base", "weights")
"""In the place of the last one, for a base that is in nf4 already."""
WORTH_PULLING = 0.02
"""Of all memory: a lever on a smaller term is left alone."""
OTHER_METHODS = ("top_layers", "lora", "prompt_tuning")
"""Which are offered beside the one that was asked for, at their defaults."""


@dataclass(frozen=True)
class Alternative:
    """A plan near the one that was asked for, which fits."""

    typed: tuple[str, ...]
    """The fields to add on the command line."""
    method: Method
    work: Work
    accumulation: int
    """Batches a step, so that a step sees as many rows as before."""
    memory: Memory
    time: float | None
    """Of a row, over that of the plan as it was asked for; None where the device's speed is not known."""
    gives_up: str
    """One of GIVEN_UP: the most that it gives up."""

    @property
    def rank(self) -> tuple[float, int, int]:
        """By which the cheapest comes first: more time in twentieths, what is given up, how much is changed."""
        return (round(20 * max(1.0, self.time or 0.0)), GIVEN_UP.index(self.gives_up), len(self.typed))


def alternatives(
    known: Rehearsals, method: Method, work: Work, accumulation: int = 1, others: Sequence[str] = OTHER_METHODS
) -> list[Alternative]:
    """The changes to the method's plan that fit the device and hold no smaller one that does, the cheapest first.

    `others` are the names of methods to be offered in its place.
    """
    asked = _Asked(known, method, work, accumulation)
    found = [*asked.with_levers(method), *asked.with_a_lower_rank()]
    found = found or list(asked.with_shorter_rows())
    for name in others:
        other = METHODS[name]()
        if type(other) is not type(method) and not known.shell.refuses(other.not_on):
            found += sorted(asked.with_levers(other), key=lambda each: each.rank)[:1]
    return sorted(found, key=lambda each: each.rank)


@dataclass(frozen=True)
class _Asked:
    """The plan that does not fit."""

    known: Rehearsals
    method: Method
    work: Work
    accumulation: int

    def with_levers(self, method: Method) -> Iterator[Alternative]:
        """Sets of levers, the small ones first; with each as large a batch as fits, at most that asked for."""
        found: list[tuple[set[str], bool]] = []  # the levers, and whether the batch had to shrink
        usable = self._usable(method)
        for n in range(len(usable) + 1):
            for levers in combinations(usable, n):
                names = {lever.typed for lever in levers}
                if any(others <= names and not shrunk for others, shrunk in found):
                    continue
                rows = self._rows(method, replace(self.work, **_merged(levers)))
                shrunk = rows < self.work.rows
                if rows == 0 or (shrunk and any(others <= names for others, _ in found)):
                    continue
                found.append((names, shrunk))
                yield self._with(method, replace(self.work, rows=rows, **_merged(levers)), levers)

    def with_a_lower_rank(self) -> Iterator[Alternative]:
        """The method with its rank halved until it fits, where what it trains is as much as is lacking."""
        rank, memory = self.method.model_dump().get("rank"), self.known.of(self.method, self.work).memory
        lacking = memory.total - self.known.device.memory_bytes
        while isinstance(rank, int) and rank > 1 and memory.gradients + memory.optimiser > lacking:
            rank //= 2
            lower = self.method.model_copy(update={"rank": rank})
            if self._fits(lower, self.work):
                yield self._with(lower, self.work, (Lever(f"method.rank={rank}", {}, "rank"),))
                return

    def with_shorter_rows(self) -> Iterator[Alternative]:
        """Rows one by one, cut to what fits, with every lever that the method allows."""
        usable = self._usable(self.method)
        for n in range(len(usable), -1, -1):
            for levers in combinations(usable, n):
                work = replace(self.work, rows=1, **_merged(levers))
                tokens = self._tokens(work)
                if tokens >= LEAST_TOKENS:
                    cut = Lever(f"train.max_length={tokens}", {}, "the ends of long rows")
                    yield self._with(self.method, at_length(work, tokens), (*levers, cut))
                    return

    def _usable(self, method: Method) -> list[Lever]:
        """The levers that are not pulled yet, and that have something to make smaller."""
        free = [lever for lever in LEVERS if any(getattr(self.work, k) != v for k, v in lever.change.items())]
        if self.work.optimiser not in NARROWED:  # another rule would be more than another precision
            free = [lever for lever in free if lever.term != "optimiser"]
        if format_of_checkpoint(self.known.shell.config) or of_layers(self.work.quantise) == "nf4":
            free = [lever for lever in free if lever.term != "weights"]
            free += [OF_ENDS] if self.work.quantise == "nf4" else []
        if self.known.least(replace(self.work, quantise="nf4")) > self.known.device.memory_bytes:
            return []  # nothing will fit
        try:
            memory = self.known.of(method, self.work).memory
        except UserError:  # what this method trains cannot be quantised, as was asked for
            return []
        return [lever for lever in free if asdict(memory)[lever.term] > WORTH_PULLING * memory.total]

    def _rows(self, method: Method, work: Work) -> int:
        """The largest batch that fits of which several make the one that was asked for; 0 for none."""
        try:
            most = largest_rows(self.known, method, work, work.rows)
        except UserError:  # what this method trains cannot be quantised
            return 0
        return next((rows for rows in range(most, 0, -1) if work.rows % rows == 0), 0)

    def _tokens(self, work: Work) -> int:
        try:
            return largest_tokens(self.known, self.method, work, self.work.tokens - 1)
        except UserError:
            return 0

    def _fits(self, method: Method, work: Work) -> bool:
        try:
            return self.known.fits(method, work)
        except UserError:
            return False

    def _with(self, method: Method, work: Work, levers: tuple[Lever, ...]) -> Alternative:
        typed = [lever.typed for lever in levers]
        accumulation = self.accumulation
        if work.rows < self.work.rows:
            accumulation *= self.work.rows // work.rows
            typed += [f"train.batch_size={work.rows}", f"train.accumulation={accumulation}"]
        given_up = [lever.gives_up for lever in levers]
        if type(method) is not type(self.method):
            typed.insert(0, f"method={method.name}")
            given_up.append("the method")
        before, now = (self.known.row_seconds(m, w) for m, w in ((self.method, self.work), (method, work)))
        return Alternative(
            typed=tuple(typed),
            method=method,
            work=work,
            accumulation=accumulation,
            memory=self.known.of(method, work).memory,
            time=None if before is None or now is None else now / before,
            gives_up=max(given_up, key=GIVEN_UP.index, default="nothing"),
        )


def _merged(levers: tuple[Lever, ...]) -> dict[str, object]:
    return {name: value for lever in levers for name, value in lever.change.items()}
