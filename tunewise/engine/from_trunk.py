"""Losses and logits from what leaves the frozen trunk, computed once for each row and kept with the base.

Rows are run through the trunk in groups that depend on the set of rows alone, longest first, and a group is computed
when the first of its rows is wanted. So what is kept for a row is a function of the base, the rows and the layout, and
not of the seed, the order of the batches or where a run was interrupted. Rows that the store has no room for are
computed again with every batch.

Legend: B rows, T columns of a batch, N states of all rows behind one another, K labels, d width.
"""

import hashlib
import logging
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tunewise import files
from tunewise.data.encode import Encoded
from tunewise.data.token_store import by_length
from tunewise.engine.backend import chosen
from tunewise.engine.batches import IGNORED, Batch
from tunewise.engine.loss import wide
from tunewise.engine.objectives import Images, Labels, NextToken, Objective, PackedLabels, PackedNextToken, Writing
from tunewise.engine.packed_classifier import PackedTexts
from tunewise.engine.packed_writing import PackedPairs
from tunewise.engine.packing import SAME, PackedBatch, pack
from tunewise.engine.trunk import Trunk, evaluating, read_trunk
from tunewise.engine.trunk_store import Block, Store, store_of
from tunewise.methods.attach import Tuned
from tunewise.models.load import bytes_beside
from tunewise.models.quantise import format_of, why_rows_mix

logger = logging.getLogger(__name__)

How = Literal["auto", "cached", "live"]
MOST_ROWS = 500_000
"""Rows that may be mapped are held whole where their states are kept."""
Inner = NextToken | PackedNextToken | Writing | Labels
AnyInner = TypeVar("AnyInner", bound=Inner)


@dataclass(frozen=True)
class TrunkBatch:
    """Rows, and a batch of their labels, with their ids where the live part of the model looks at them."""

    own: Any
    rows: tuple[Encoded, ...]

    @property
    def n_labels(self) -> int:
        return self.own.n_labels

    @property
    def n_tokens(self) -> int:
        return self.own.n_tokens

    @property
    def ids(self) -> list[str]:
        return self.own.ids

    def to(self, device: torch.device) -> Self:
        """The same batch with its tensors on `device`."""
        return replace(self, own=self.own.to(device))


class FromTrunk:
    """An objective that runs the trunk once for each row, and the live part of the model at every step."""

    def __init__(
        self, inner: Inner, trunk: Trunk, rows: Sequence[Encoded], group_size: int, store: Store | None = None
    ) -> None:
        """`group_size` rows are run through the trunk at a time; the base's own store is taken where none is given."""
        self.inner, self.trunk, self.criterion = inner, trunk, inner.criterion
        self._store = store_of(trunk.model) if store is None else store
        self.n_computed = 0  # rows that were run through the trunk, each time counted
        self._predicts = isinstance(inner, NextToken | PackedNextToken)
        is_tagger = isinstance(inner, PackedLabels) and inner.reads == "labelled"
        self._sees_labels_alone = trunk.live == "head" and (self._predicts or is_tagger)
        self._states: Tensor | None = None
        self._is_full = False
        self._keys: dict[Encoded, bytes] = {}
        distinct: dict[bytes, Encoded] = {}
        for row in rows:
            distinct.setdefault(self._key(row), row)
        ranked = sorted(distinct, key=lambda key: (-len(distinct[key].ids), key))
        groups = [ranked[start : start + group_size] for start in range(0, len(ranked), group_size)]
        self._groups = [[distinct[key] for key in group] for group in groups]
        route = f"{trunk.digest} {trunk.live} {type(inner).__name__}".encode()
        self._names = [hashlib.sha256(route + b"".join(group)).hexdigest() for group in groups]
        self._places = {key: (number, place) for number, group in enumerate(groups) for place, key in enumerate(group)}

    @property
    def counted_by(self) -> Literal["labels", "rows", "tokens"]:
        """What of its rows there is one state for each."""
        if self._sees_labels_alone:
            return "labels"
        return "rows" if self.trunk.n_dims == 2 else "tokens"

    def compute(self, model: PreTrainedModel) -> None:
        """Run the trunk on every row now, and not when it is wanted."""
        for number in range(len(self._groups)):
            self._block(model, number)

    @property
    def layout(self) -> str:
        """Packed or padded: how the trunk is run."""
        return self.inner.layout

    @property
    def why_padded(self) -> str:
        return self.inner.why_padded

    def probe(self, row: Encoded) -> dict[str, Tensor]:
        return self.inner.probe(row)

    def n_labels(self, row: Encoded) -> int:
        return self.inner.n_labels(row)

    def collate(self, rows: Sequence[Encoded]) -> TrunkBatch:
        inner = self.inner
        if self._sees_labels_alone and self._predicts:
            own = pack(rows, 0, inner.prefix_ids)
        elif isinstance(inner, Images):  # what the model makes of the points is replaced: no file is read
            blank = self.trunk.blank.expand(len(rows), *self.trunk.blank.shape[1:])
            own = inner.labelled(rows, {"pixel_values": blank}, len(rows))
        elif isinstance(inner, Labels) and self.trunk.live == "head" and self.trunk.n_dims == 2:
            nothing = {"input_ids": torch.zeros(1, 1, dtype=torch.long)}  # the body that would read them is left out
            own = inner.labelled(rows, nothing, sum(len(inner.prefix_ids) + len(row.ids) for row in rows))
        else:
            own = inner.collate(rows)
        return TrunkBatch(own, tuple(rows))

    @contextmanager
    def ready(self, model: PreTrainedModel) -> Iterator[None]:
        inside = nullcontext() if self.trunk.live == "head" else self.inner.ready(model)
        with inside, self.trunk.entered(lambda: self._states):
            try:
                yield
            finally:
                self._states = None

    def row_losses(self, model: PreTrainedModel, batch: TrunkBatch) -> Tensor:
        if self._sees_labels_alone and self._predicts:
            losses = self.criterion.label_losses(self._label_logits(model, batch)[0], batch.own.labels)
            return losses.new_zeros(len(batch.rows)).index_add(0, batch.own.rows, losses)
        if self.trunk.live == "head":
            return self.losses(self.logits(model, batch), batch)
        self._enter(model, batch)
        return self.inner.row_losses(model, batch.own)

    def loss(self, model: PreTrainedModel, batch: TrunkBatch) -> Tensor:
        if self.trunk.live == "head":
            return self.row_losses(model, batch).sum()
        self._enter(model, batch)
        return self.inner.loss(model, batch.own)

    def logits(self, model: PreTrainedModel, batch: TrunkBatch) -> Tensor:
        """As the inner objective's; (1, K, vocabulary) where a language model's head is all that is live."""
        if self._sees_labels_alone and self._predicts:
            return wide(self._label_logits(model, batch))
        self._enter(model, batch)
        assert isinstance(self.inner, Labels)
        if self.trunk.live == "head":
            return self.inner.logits_of(model, batch.own.inputs)
        return self.inner.logits(model, batch.own)

    def _label_logits(self, model: PreTrainedModel, batch: TrunkBatch) -> Tensor:
        """(1, K, vocabulary) in the precision of the base, where a language model's head is all that is live."""
        self._enter(model, batch)
        return model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device)).logits

    def of_row(self, logits: Tensor, batch: TrunkBatch, place: int) -> Tensor:
        """What a classifier's `logits` tell of one row of the batch."""
        assert isinstance(self.inner, Labels)
        return self.inner.of_row(logits, batch.own, place)

    def losses(self, logits: Tensor, batch: TrunkBatch) -> Tensor:
        """(B,) a classifier's loss of each row from its `logits`."""
        assert isinstance(self.inner, Labels)
        return self.inner.losses(logits, batch.own)

    def _enter(self, model: PreTrainedModel, batch: TrunkBatch) -> None:
        """Lay the rows' states where the trunk would have put them."""
        self._states = None  # so that the trunk runs where rows are missing
        states = torch.cat(self._states_of(model, batch.rows)).to(model.device)
        if self._sees_labels_alone:
            self._states = states[None]
        elif self.trunk.n_dims == 2:
            self._states = states
        else:
            mask = _mask(batch.own)
            if mask is None:
                self._states = states.view(len(batch.rows), -1, states.shape[-1])
            else:
                laid = states.new_zeros(*mask.shape, states.shape[-1])
                laid[mask] = states
                self._states = laid

    def _states_of(self, model: PreTrainedModel, rows: Sequence[Encoded]) -> list[Tensor]:
        """(n, d) of each row: from the store, or computed now."""
        found: dict[int, Tensor] = {}
        for index, row in enumerate(rows):
            number, place = self._places.get(self._key(row), (-1, 0))
            block = self._block(model, number) if number >= 0 else None
            if block is not None:
                found[index] = block.row(place)
        missing = [index for index in range(len(rows)) if index not in found]
        if missing:
            states, starts = self._computed(model, [rows[index] for index in missing])
            found |= {index: states[starts[i] : starts[i + 1]] for i, index in enumerate(missing)}
        return [found[index] for index in range(len(rows))]

    def _block(self, model: PreTrainedModel, number: int) -> Block | None:
        """The states of a group, computed where they are not kept; None where they are not and there is no room."""
        store, name = self._store, self._names[number]
        block = store.get(self.trunk.digest, name)
        if block is None and not self._is_full:
            block = store.put(self.trunk.digest, name, *self._computed(model, self._groups[number]))
            if block is None:
                self._is_full = True
                logger.info("there is no room for more of the trunk's states; the other rows are computed every time")
        return block

    def _computed(self, model: PreTrainedModel, rows: Sequence[Encoded]) -> tuple[Tensor, tuple[int, ...]]:
        """What leaves the trunk for these rows behind one another, (N, d) in memory, and where each row's begin."""
        inner = self.inner
        self.n_computed += len(rows)
        batch = inner.collate(rows).to(model.device)
        with evaluating(model), chosen(model.device), inner.ready(model):
            states = self.trunk.leaving(lambda: inner.row_losses(model, batch))
        mask = None if states.dim() == 2 else _mask(batch, self._sees_labels_alone)
        if mask is not None:
            states = states[mask]
        elif states.dim() == 3:
            states = states.flatten(0, 1)
        starts = tuple(accumulate((self._n_states(row, len(states) // len(rows)) for row in rows), initial=0))
        assert starts[-1] == len(states), (starts[-1], len(states))
        return states.cpu(), starts

    def _n_states(self, row: Encoded, n_otherwise: int) -> int:
        if self._sees_labels_alone:
            return sum(label != IGNORED for label in row.labels[self._predicts :])
        if self.trunk.n_dims == 2 or row.image:
            return n_otherwise
        return len(self.inner.prefix_ids) + len(row.ids) - isinstance(self.inner, NextToken)  # whose last is not fed

    def _key(self, row: Encoded) -> bytes:
        """A digest of all of a row that its states depend on."""
        if row not in self._keys:
            told = [self.inner.prefix_ids, row.ids, row.segments]
            if self._sees_labels_alone:
                if self._predicts:
                    told[1] = row.ids[:-1]  # nothing is predicted from the last: rows that differ in it share states
                told.append([place for place, label in enumerate(row.labels) if label != IGNORED])
            content = b"".join(array("q", [len(one), *one]).tobytes() for one in told)
            image = files.sha256(row.image) if row.image else ""
            self._keys[row] = hashlib.sha256(content + image.encode()).digest()
        return self._keys[row]


def _mask(batch: Any, sees_labels_alone: bool = False) -> Tensor | None:
    """(B, T), or (1, T) of packed rows: where rows have states; None where that is everywhere."""
    if isinstance(batch, Batch):
        if sees_labels_alone:
            return batch.labels[:, -batch.n_label_columns :] != IGNORED
        return batch.attention_mask[:, :-1].bool()
    if isinstance(batch, PackedBatch | PackedTexts):
        if sees_labels_alone:
            return None
        ids, n = batch.input_ids if isinstance(batch, PackedBatch) else batch.inputs["input_ids"], batch.n_tokens
    elif isinstance(batch, PackedPairs):
        ids, n = batch.inputs["input_ids"], int(batch.read[-2])
    else:
        mask = batch.inputs.get("attention_mask")
        return None if mask is None else mask.bool()
    return torch.tensor([[place < n for place in range(ids.shape[1])]], device=ids.device)


@dataclass(frozen=True)
class Route:
    """How rows are trained on, and the trunk that evaluations may start from."""

    objective: Objective[Any]
    trunk: Trunk | None
    reason: str
    """Why training does not start from the trunk; "" where it does."""

    def told(self) -> dict[str, object]:
        """For metrics.json; `n_computed` rows were run through the trunk, and others found from earlier runs."""
        n_computed = self.objective.n_computed if isinstance(self.objective, FromTrunk) else 0
        n_layers = self.trunk.n_layers if self.trunk else 0
        return {"layers": n_layers, "cached": not self.reason, "reason": self.reason, "n_computed": n_computed}

    def kept_for_others(self, model: PreTrainedModel) -> int:
        """Bytes on the device of `model` that are no cost of this run: other bases, and on a CPU, where they are
        kept, what the store of `model` has of other trunks."""
        digest = self.trunk.digest if self.trunk else ""
        of_trunks = store_of(model).bytes_of_others(digest) if model.device.type == "cpu" else 0
        return of_trunks + bytes_beside(model)


def route_for(
    tuned: Tuned,
    objective: Objective[Any],
    rows: Sequence[Encoded],
    how: How = "auto",
    *,
    group_size: int = 8,
    passes: float = 2.0,
) -> Route:
    """How `tuned` is trained on `rows`, `passes` times: with the whole model, or from its trunk, run once.

    `auto` starts from the trunk where that changes nothing but rounding; `cached` also where dropout acts in it, which
    is then off; `live` never does. `group_size` rows are run through the trunk at a time.
    """
    if how == "live":
        return Route(objective, None, "train.trunk=live")
    assert isinstance(objective, Inner), objective
    two = _two(rows)
    batch = objective.collate(two).to(tuned.model.device)
    with evaluating(tuned.model), objective.ready(tuned.model):
        trunk, reason = read_trunk(tuned, lambda: objective.row_losses(tuned.model, batch))
    if trunk is None:
        return Route(objective, None, reason)
    if isinstance(objective, Images):
        trunk.blank = torch.zeros_like(batch.inputs["pixel_values"][:1])
    reason = _why_not(trunk, objective, rows)
    if reason:
        trunk = None
    else:
        reason = why_live(trunk, how, format_of(tuned.model), len(rows), passes)
    if reason:
        logger.info("the frozen layers run at every step: %s", reason)
        return Route(objective, trunk, reason)
    return Route(FromTrunk(objective, trunk, rows, group_size), trunk, "")


def why_live(trunk: Trunk, how: How, storage: str, n_rows: int, passes: float) -> str:
    """Why a run does not start from this trunk, though it could; "" where it does. `storage` is the base's format."""
    if how == "live":
        return "train.trunk=live"
    if how == "cached":
        return ""
    if trunk.draws:
        return "dropout acts in the frozen layers; train.trunk=cached runs them without"
    if reason := why_rows_mix(storage):
        return reason
    if passes < 1:
        return "no row is seen twice"
    return f"{n_rows} rows are more than are kept ({MOST_ROWS})" if n_rows > MOST_ROWS else ""


def from_trunk(
    objective: AnyInner, trunk: Trunk | None, rows: Sequence[Encoded], group_size: int
) -> AnyInner | FromTrunk:
    """The same logits and losses of `rows` from the trunk, where there is one and this objective runs from it."""
    if trunk is None or not rows or _why_not(trunk, objective, rows):
        return objective
    return FromTrunk(objective, trunk, rows, group_size)


def _two(rows: Sequence[Encoded]) -> list[Encoded]:
    """Two rows of unlike length, where there are such, and not the longest."""
    ranked = by_length(rows)
    return [rows[ranked[0]], rows[ranked[len(ranked) // 2]]]


def _why_not(trunk: Trunk, objective: Inner, rows: Sequence[Encoded]) -> str:
    """Why losses cannot be had from the trunk; "" where they can. Tried and not guessed, once for each layout."""
    tried = type(objective).__name__
    if tried not in trunk.tried:
        with evaluating(trunk.model), torch.no_grad(), chosen(trunk.model.device):
            trunk.tried[tried] = _tried(trunk, objective, _two(rows))
    return trunk.tried[tried]


def _tried(trunk: Trunk, objective: Inner, rows: list[Encoded]) -> str:
    model, name = trunk.model, type(trunk.model).__name__
    # each row goes through the trunk alone, both through the rest together
    cached = FromTrunk(objective, trunk, rows, 1, Store(memory_bytes=1 << 40, disk_bytes=0, folder=Path()))
    with objective.ready(model):
        plain = objective.row_losses(model, objective.collate(rows).to(model.device))
    try:
        with cached.ready(model):
            found = cached.row_losses(model, cached.collate(rows).to(model.device))
    except (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
        return f"{name} does not run from its trunk: {error}"
    distance = float((found - plain).abs().max() / plain.abs().max().clamp(min=1e-6))
    return "" if distance < SAME[model.dtype] else f"{name} gives other losses from its trunk ({distance:.2g})"
