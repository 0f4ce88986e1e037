"""Several lanes asked at once: what they want to know at the same time is answered in one pass over their base.

Each prompt is read by its own lane, so every lane is told what it is told alone, but for rounding. A pass is as large
as one that a model makes alone may be: rows of packed tokens, places in the cache of keys and values, padded documents.
"""

import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import torch

from tunewise.data.encode import Encoded
from tunewise.engine.backend import chosen
from tunewise.engine.batches import plain
from tunewise.engine.decoding import Decoding, decode
from tunewise.engine.joining import joint_row_losses
from tunewise.engine.objectives import Labels, objective_for
from tunewise.engine.owners import Owners
from tunewise.engine.packed_reading import SHORTEST_SHARED, TOKENS, found_to_read, shared_length, why_not_read
from tunewise.engine.scoring import losses_of_rows, option_log_probabilities
from tunewise.engine.writing import write, written_log_probabilities
from tunewise.evaluation.asks import (
    LARGEST_OF_DOCUMENTS,
    Ask,
    Asks,
    ByHead,
    Documents,
    How,
    Known,
    Likelihoods,
    RowLosses,
    Texts,
    answer_to,
)
from tunewise.evaluation.by_head import answers_by_head_of_lanes
from tunewise.methods.alone import CannotShare
from tunewise.methods.lanes import Lanes
from tunewise.models.families import ENCODER_DECODER
from tunewise.models.load import Base

logger = logging.getLogger(__name__)

Grouping = Callable[[Mapping[int, float]], Iterable[Sequence[int]]]
"""Lane -> the tokens of one of its passes; groups of those that share passes. Whoever is in none is asked alone."""
MOST_MORE = 1.5
"""Padded lanes read what all prompts begin with for each of them: at most so many times the tokens read alone."""
APART = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 0.25, torch.float16: 0.05}
"""How far a log-probability or a loss of a lane may lie from the one it has alone, over the largest or 1."""

TRIED = ((3, 4, 5), (6, 7, 3, 5, 4))
"""Prompts of a trial that is not of any question."""
NONE_GAINS = "none gains by sharing a pass with another"


def everyone(tokens: Mapping[int, float]) -> list[tuple[int, ...]]:
    """All lanes in one group, whatever it costs."""
    return [tuple(tokens)]


class ByLane:
    """`lanes`, inside their block, as those who are asked; lane number i is asked as `how[i]` says.

    That lanes can share a pass is tried on a few questions and not guessed. `why_alone` tells why they do not; it is ""
    once some do.
    """

    def __init__(self, base: Base, lanes: Lanes, how: Mapping[int, How], grouping: Grouping = everyone) -> None:
        self._base, self._lanes, self._how, self._grouping = base, lanes, how, grouping
        self.why_alone = NONE_GAINS
        self._cannot = False
        self._packs: dict[object, bool] = {}
        self._objectives: dict[int, Labels] = {}
        self._tried: set[object] = set()

    def answers(self, asks: Mapping[int, Asks[Known]]) -> dict[int, Known]:
        """What the asks of each lane come to. The model is in evaluation mode."""
        found: dict[int, Known] = {}
        told: dict[int, Any] = dict.fromkeys(asks)
        with chosen(self._base.model.device):
            while told:
                asked: dict[int, Ask] = {}
                for number, answer in told.items():
                    try:
                        asked[number] = asks[number].send(answer)
                    except StopIteration as end:
                        found[number] = end.value
                told = self._told(asked)
        return {number: found[number] for number in asks}

    def writers(self) -> list[tuple[tuple[int, ...], bool]]:
        """Lanes whose answers can be written in one batch, and whether in packed rows: group by group, tried.

        Whoever can share none is a group alone.
        """
        kinds: dict[bool, list[int]] = {}
        for number in range(len(self._lanes.tuned)):
            kinds.setdefault(self._is_packed(number), []).append(number)
        found = []
        for is_packed, numbers in kinds.items():
            try:
                if len(numbers) > 1:
                    self._try({number: Texts(TRIED, Decoding(1)) for number in numbers})
                found.append((tuple(numbers), is_packed))
            except CannotShare as reason:
                logger.info("lanes write one after another: %s", reason.message)
                found += [((number,), is_packed) for number in numbers]
        return found

    def _told(self, asked: Mapping[int, Ask]) -> dict[int, Any]:
        told: dict[int, Any] = {}
        try:
            for group in self._groups(asked):
                told |= self._together({number: asked[number] for number in group})
        except CannotShare as reason:
            self._cannot, self.why_alone = True, reason.message
            logger.info("lanes are asked one after another: %s", reason.message)
        for number, ask in asked.items():
            if number not in told:
                start = time.perf_counter()
                told[number] = self._alone(number, ask)
                ask.seconds = time.perf_counter() - start
        return told

    def _alone(self, number: int, ask: Ask) -> Any:
        how = self._how[number]
        is_packed = isinstance(ask, Likelihoods | Texts | Documents) and self._is_packed(number)
        with self._lanes.only(self._lanes.tuned[number]):
            if is_packed:
                found_to_read(self._base.model, how.prefix_ids)
            return answer_to(self._base, ask, how)

    def _groups(self, asked: Mapping[int, Ask]) -> list[Sequence[int]]:
        """Those who ask the same kind of thing, and gain by being asked at once."""
        kinds: dict[object, dict[int, float]] = {}
        for number, ask in asked.items() if len(asked) > 1 and not self._cannot else ():
            kind = self._kind(number, ask)
            if kind is not None:
                kinds.setdefault(kind, {})[number] = self._tokens_of_a_pass(number, ask)
        groups = [group for tokens in kinds.values() if len(tokens) > 1 for group in self._grouping(tokens)]
        return [group for group in groups if len(group) > 1]

    def _kind(self, number: int, ask: Ask) -> object:
        """What has to be the same for two asks to share a pass; None for one that shares none."""
        how = self._how[number]
        if how.trunk is not None or self._reads_more(number, ask):
            return None
        if isinstance(ask, ByHead):
            return ByHead, self._objective(number).layout
        if isinstance(ask, RowLosses):
            return RowLosses, type(ask.objective), ask.objective.layout
        if isinstance(ask, Texts):
            return None if ask.how.sampling is not None else (Texts, self._is_packed(number), ask.how)
        return type(ask), self._is_packed(number)

    def _reads_more(self, number: int, ask: Ask) -> bool:
        """Whether a model that is alone reads so much less, as all prompts begin alike, that it is to be so: padded
        lanes read that with every prompt."""
        how = self._how[number]
        if not isinstance(ask, Likelihoods | Texts) or self._is_packed(number):
            return False
        whole = sum(self._sizes(ask, how))
        return whole > MOST_MORE * (whole - (len(ask.prompts) - 1) * self._n_shared(ask, how))

    def _n_shared(self, ask: Likelihoods | Texts | Documents, how: How) -> int:
        """Tokens that all prompts begin with, where these are read once by a model that is alone."""
        begin = ask.ids if isinstance(ask, Documents) else ask.prompts
        if len(begin) < 2 or self._base.anatomy.kind == ENCODER_DECODER:
            return 0
        n = len(how.prefix_ids) + (0 if isinstance(ask, Documents) else shared_length(begin))
        return n if n >= SHORTEST_SHARED else 0

    def _sizes(self, ask: Ask, how: How) -> list[int]:
        """The tokens of each thing that is asked, those that are written included."""
        n_prefix = len(how.prefix_ids)
        if isinstance(ask, Likelihoods):
            behind = [sum(len(option) - 1 for option in of_prompt) for of_prompt in ask.options]
            return [n_prefix + len(prompt) + n for prompt, n in zip(ask.prompts, behind, strict=True)]
        if isinstance(ask, Texts):
            return [n_prefix + len(prompt) + ask.how.max_new_tokens for prompt in ask.prompts]
        if isinstance(ask, Documents):
            return [n_prefix + len(ids) for ids in ask.cut(self._base, how)]
        assert isinstance(ask, ByHead | RowLosses)
        return [n_prefix + len(row.ids) for row in _rows(ask)]

    def _tokens_of_a_pass(self, number: int, ask: Ask) -> float:
        """Of one forward that this lane makes alone; of those that write, one in which nothing is read."""
        how = self._how[number]
        sizes = self._sizes(ask, how)
        if isinstance(ask, Texts):
            return max(min(how.batch_size, len(sizes)), self._n_shared(ask, how))
        if isinstance(ask, Likelihoods | Documents) and self._is_packed(number):
            return min(TOKENS, sum(sizes) - max(0, len(sizes) - 1) * self._n_shared(ask, how))
        n_rows = ask.batch_size if isinstance(ask, RowLosses) else how.batch_size
        return min(n_rows, len(sizes)) * sum(sizes) / max(1, len(sizes))

    def _is_packed(self, number: int) -> bool:
        """Whether this lane reads prompts packed when it is alone; one of each method is tried."""
        tuned, how = self._lanes.tuned[number], self._how[number]
        if not how.packing or self._base.anatomy.kind == ENCODER_DECODER:
            return False
        key = json.dumps(tuned.method.configuration()), how.prefix_ids, tuned.scale == 0.0
        if key not in self._packs:
            with self._lanes.only(tuned):
                self._packs[key] = not why_not_read(self._base.model, how.prefix_ids)
        return self._packs[key]

    def _objective(self, number: int) -> Labels:
        """How this lane's classifier is given its rows."""
        if number not in self._objectives:
            how = self._how[number]
            with self._lanes.only(self._lanes.tuned[number]):
                objective = objective_for(self._base, how.prefix_ids, packing=how.packing)
            assert isinstance(objective, Labels), self._base.head
            self._objectives[number] = objective
        return self._objectives[number]

    def _together(self, asked: Mapping[int, Ask]) -> dict[int, Any]:
        self._try(asked)
        start = time.perf_counter()
        told = self._answers_to(asked)
        self.why_alone = ""
        seconds = time.perf_counter() - start
        n_tokens = {number: sum(self._sizes(ask, self._how[number])) for number, ask in asked.items()}
        for number, ask in asked.items():
            ask.seconds = seconds * n_tokens[number] / max(1, sum(n_tokens.values()))
        return told

    def _try(self, asked: Mapping[int, Ask]) -> None:
        """Ask one of each method a few of the same, or two of one; CannotShare where they are told something else."""
        tuned = self._lanes.tuned
        alike: dict[str, list[int]] = {}
        for number in asked:
            alike.setdefault(json.dumps(tuned[number].method.configuration()), []).append(number)
        key = type(next(iter(asked.values()))), *sorted(alike)
        if key in self._tried:
            return
        chosen_ones = [numbers[0] for numbers in alike.values()] if len(alike) > 1 else list(asked)[:2]
        few = {number: _few(asked[number]) for number in chosen_ones}
        try:
            beside = self._answers_to(few)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise CannotShare(f"{type(self._base.model).__name__} does not answer them in one pass: {error}") from error
        for number, ask in few.items():
            distance = _distance(_figures(self._alone(number, ask)), _figures(beside[number]))
            if distance > APART[self._base.dtype]:
                name = tuned[number].method.name
                raise CannotShare(f"{name} answers otherwise beside other lanes than alone ({distance:.2g})")
        self._tried.add(key)

    @torch.no_grad()
    def _answers_to(self, asked: Mapping[int, Ask]) -> dict[int, Any]:
        """What each is told, all being of one kind, in one pass as far as that is no larger than one may be."""
        first = next(iter(asked.values()))
        if isinstance(first, Likelihoods):
            return self._likelihoods(asked)
        if isinstance(first, Texts):
            return self._texts(first, asked)
        if isinstance(first, Documents):
            return self._documents(asked)
        if isinstance(first, ByHead):
            objectives = {number: self._objective(number) for number in asked}
            labelled = {number: ask.rows for number, ask in asked.items() if isinstance(ask, ByHead)}
            batch_size = self._how[next(iter(asked))].batch_size
            return answers_by_head_of_lanes(self._base, self._lanes, labelled, objectives, batch_size)
        return self._row_losses({number: ask for number, ask in asked.items() if isinstance(ask, RowLosses)})

    def _likelihoods(self, asked: Mapping[int, Ask]) -> dict[int, list[list[float]]]:
        base, owners, prompts = self._base, *self._prompts(asked)
        options = [options for ask in asked.values() if isinstance(ask, Likelihoods) for options in ask.options]
        n_rows = self._n_rows(asked)
        if base.anatomy.kind == ENCODER_DECODER:
            found = written_log_probabilities(base, prompts, options, batch_size=n_rows, owners=owners)
        else:
            found = option_log_probabilities(
                base.model, prompts, options, pad_id=base.tokenizer.pad_token_id, batch_size=n_rows,
                packing=self._is_packed(next(iter(asked))), owners=owners,
            )  # fmt: skip
        return _apart(asked, [len(ask.prompts) for ask in asked.values() if isinstance(ask, Likelihoods)], found)

    def _texts(self, first: Texts, asked: Mapping[int, Ask]) -> dict[int, list[str]]:
        base, owners, prompts = self._base, *self._prompts(asked)
        n_begin = min(self._n_shared(ask, self._how[number]) for number, ask in asked.items() if isinstance(ask, Texts))
        n_rows = self._n_rows(asked, n_begin if self._is_packed(next(iter(asked))) else 0)
        if base.anatomy.kind == ENCODER_DECODER:
            found = write(base, prompts, first.how, batch_size=n_rows, owners=owners)
        else:
            found = decode(
                base.model, base.tokenizer, prompts, first.how, batch_size=n_rows,
                packing=self._is_packed(next(iter(asked))), owners=owners,
            )  # fmt: skip
        return _apart(asked, [len(ask.prompts) for ask in asked.values() if isinstance(ask, Texts)], found)

    def _n_rows(self, asked: Mapping[int, Ask], n_begin: int = 0) -> int:
        """Prompts at a time: as many as one lane has, or as the cache of a row of packed tokens holds of the longest,
        of which so many tokens are held once."""
        longest = max(size for number, ask in asked.items() for size in self._sizes(ask, self._how[number]))
        return max(self._how[next(iter(asked))].batch_size, TOKENS // max(1, longest - n_begin))

    def _prompts(self, asked: Mapping[int, Ask]) -> tuple[Owners, list[tuple[int, ...]]]:
        """The prompts of all, each behind the virtual tokens of its lane."""
        of, prompts = [], []
        for number, ask in asked.items():
            assert isinstance(ask, Likelihoods | Texts)
            of += [number] * len(ask.prompts)
            prompts += [(*self._how[number].prefix_ids, *prompt) for prompt in ask.prompts]
        return Owners(self._lanes, of), prompts

    def _documents(self, asked: Mapping[int, Ask]) -> dict[int, list[tuple[float, int]]]:
        """Documents of one token or none have nothing to be told."""
        base, prefixes = self._base, {number: how.prefix_ids for number, how in self._how.items()}
        cut = {n: ask.cut(base, self._how[n]) for n, ask in asked.items() if isinstance(ask, Documents)}
        told = [(number, ids) for number, documents in cut.items() for ids in documents if len(ids) > 1]
        owners, pad_id = Owners(self._lanes, [number for number, _ in told]), base.tokenizer.pad_token_id
        if self._is_packed(next(iter(asked))):
            firsts = [(*prefixes[number], ids[0]) for number, ids in told]
            scores = option_log_probabilities(
                base.model, firsts, [[ids[1:]] for _, ids in told], pad_id=pad_id, owners=owners
            )
            losses = iter([-value for (value,) in scores])
        else:
            rows = [plain("", [*prefixes[number], *ids], len(ids) - 1) for number, ids in told]
            losses = iter(
                losses_of_rows(base.model, rows, pad_id=pad_id, batch_size=LARGEST_OF_DOCUMENTS, owners=owners)
            )
        return {
            number: [(next(losses), len(ids) - 1) if len(ids) > 1 else (0.0, 0) for ids in documents]
            for number, documents in cut.items()
        }

    def _row_losses(self, asked: Mapping[int, RowLosses]) -> dict[int, tuple[float, int]]:
        totals, n_labels = dict.fromkeys(asked, 0.0), dict.fromkeys(asked, 0)
        batches = [[(number, ask.objective.collate(rows)) for rows in _batches(ask)] for number, ask in asked.items()]
        for side_by_side in zip_longest(*batches):
            held = [each for each in side_by_side if each is not None and each[1].n_labels]
            if not held:
                continue
            numbers = [number for number, _ in held]
            objectives = [asked[number].objective for number in numbers]
            by_row = joint_row_losses(objectives, self._lanes, numbers, [batch for _, batch in held])
            for (number, batch), losses in zip(held, by_row, strict=True):
                totals[number] += float(losses.sum())
                n_labels[number] += batch.n_labels
        return {number: (totals[number], n_labels[number]) for number in asked}


def _rows(ask: ByHead | RowLosses) -> Sequence[Encoded]:
    return ask.rows.rows if isinstance(ask, ByHead) else ask.rows


def _batches(ask: RowLosses) -> list[Sequence[Encoded]]:
    return [ask.rows[start : start + ask.batch_size] for start in range(0, len(ask.rows), ask.batch_size)]


def _apart(asked: Mapping[int, Ask], sizes: Sequence[int], found: Sequence[Any]) -> dict[int, list[Any]]:
    """Lane -> its own of all answers."""
    every = iter(found)
    return {number: [next(every) for _ in range(size)] for number, size in zip(asked, sizes, strict=True)}


def _few(ask: Ask) -> Ask:
    """A question like it, which costs little: of what is to be written, the likelihood of two tokens."""
    if isinstance(ask, Likelihoods):
        return Likelihoods(ask.prompts[:2], ask.options[:2])
    if isinstance(ask, Texts):
        return Likelihoods(ask.prompts[:2], [[prompt[:2]] for prompt in ask.prompts[:2]])
    if isinstance(ask, Documents):
        return Documents(ask.ids[:2])
    if isinstance(ask, ByHead):
        return ByHead(replace(ask.rows, examples=ask.rows.examples[:2], rows=ask.rows.rows[:2]))
    assert isinstance(ask, RowLosses)
    return replace(ask, rows=ask.rows[:2])


def _figures(answer: Any) -> list[float]:
    """The log-probabilities and losses in an answer to one of these."""
    if isinstance(answer, float):
        return [answer]
    inside = answer if isinstance(answer, list | tuple) else ()
    return [value for each in inside for value in _figures(each)]


def _distance(expected: Sequence[float], found: Sequence[float]) -> float:
    """The largest difference, over the largest number or 1; numbers that are no numbers in both are alike."""
    assert len(expected) == len(found)
    largest = max([1.0, *(abs(value) for value in expected if math.isfinite(value))])
    pairs = [pair for pair in zip(expected, found, strict=True) if not all(map(math.isnan, pair))]
    differences = [abs(one - other) / largest for one, other in pairs]
    return max((math.inf if math.isnan(each) else each for each in differences), default=0.0)
