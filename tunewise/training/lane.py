"""One run while it is trained: a lane asks for gradients, and does everything else of a step itself."""

import hashlib
import json
import math
import time
from array import array
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunewise import files
from tunewise.data.encode import Encoded
from tunewise.engine.batches import FORWARD_COST, FORWARD_COST_ELSEWHERE, buckets
from tunewise.engine.objectives import Objective
from tunewise.engine.sources import Sources
from tunewise.engine.trunk import evaluating
from tunewise.errors import UserError
from tunewise.methods.attach import Tuned
from tunewise.training import checkpoint
from tunewise.training.config import TrainConfig
from tunewise.training.interrupt import Interrupted, Interrupts
from tunewise.training.memory import Peak
from tunewise.training.optimiser import Optimiser
from tunewise.training.progress import Silent, Watcher
from tunewise.training.schedule import learning_rate_at, tell_endless_warmup
from tunewise.training.state import LOG, State
from tunewise.training.weighing import ALIKE, Weighing


@dataclass(frozen=True)
class Training:
    """What is to be trained: `tuned` on `rows`, as `fit` says."""

    tuned: Tuned
    rows: Sequence[Encoded]
    config: TrainConfig
    seed: int
    folder: Path
    objective: Objective[Any]
    dev_score: Callable[[], float] | None = None
    progress: Watcher | None = None
    until: float | None = None
    """Stop at this share of the steps, with a checkpoint from which it goes on; None goes to the end."""
    sources: Sources | None = None
    """Whose the rows are, and in which order they are drawn; None for rows of one source."""
    weighing: Weighing = ALIKE
    """What each label counts."""
    told: Callable[[Mapping[str, Any]], None] | None = None
    """Called with each line of log.jsonl."""
    measures_memory: bool = True
    """Whether its memory is to be its own, without what was freed before."""


@dataclass(frozen=True)
class FitResult:
    """What a training run was."""

    steps: int
    n_steps: int
    """Of the whole schedule."""
    losses: list[float]
    """What was minimised, one a step: the mean over the label tokens by their weights, in nats."""
    scores: list[tuple[int, float]]
    """(step, dev score) of every evaluation."""
    best_step: int
    """The step whose state the tuned model holds now."""
    best_score: float | None
    seconds: float
    """In steps: without evaluations and checkpoints. Of batches shared with other lanes its share by tokens."""
    tokens: int
    """Tokens seen, prompts and prefixes included, padding not."""
    tokens_per_second: float
    peak_bytes: int
    """Of all lanes that shared the base."""
    peak_measure: str
    stopped_by: str
    """"steps", "patience", or "until" before the last step."""
    resumed_from: int
    """The step a checkpoint was read at; 0 for a run in one go."""
    seconds_before: float = 0.0
    """Of `seconds`, those of the steps before it, which other processes took."""
    lanes: int = 1
    """How many runs shared the base."""
    own_bytes: int | None = None
    """What the steps before the first look at dev took above what was there before them; None where it is not told."""


@dataclass(frozen=True)
class Asked:
    """A batch whose gradients a lane wants in the `.grad` of what it trains, of the loss over `weight`."""

    batch: Any
    weight: float
    """Of all labels of the step: their number, where all count alike."""
    by_row: bool = False
    """Whether it wants the loss of each row too."""
    of_rows: Tensor | None = None
    """(B,) what each row counts; None where all count alike."""

    def weighed(self, losses: Tensor) -> Tensor:
        """The loss of each row, times what the row counts: (B,)."""
        return losses if self.of_rows is None else losses * self.of_rows.to(losses)


@dataclass(frozen=True)
class Answer:
    """What a lane is told once the gradients are there: its loss (0-d, detached), and the seconds that were its own."""

    loss: Tensor
    seconds: float
    by_row: Tensor | None = None
    """(B,) the loss of each row, summed over its labels by their weights."""


@dataclass(frozen=True)
class ToScore:
    """A lane wants its present state scored on dev; `alone` does that with no other on the base."""

    alone: Callable[[], float]


Steps = Generator[Asked | ToScore, Any, str]
"""An `Asked` is to be sent an `Answer`, a `ToScore` a float."""


@dataclass(frozen=True)
class _Drawn:
    """A batch, and the numbers of its rows."""

    batch: Any
    rows: list[int]


class Diverged(UserError):
    """The loss or its gradient was no longer finite; the step that found it changed no weight."""


class Lane:
    """A run that is under way. `alone` puts its method, and no other, on the base inside the block."""

    def __init__(
        self, training: Training, alone: Callable[[], AbstractContextManager[Any]] = nullcontext, n_lanes: int = 1
    ) -> None:
        if not training.rows:
            raise UserError("there is no row to train on", "check the train split of the data")
        tuned, config = training.tuned, training.config
        self.training, self._tuned, self._config, self._alone, self._n_lanes = training, tuned, config, alone, n_lanes
        self._objective, self._device = training.objective, tuned.model.device
        self._prefix_ids = tuned.prefix_ids
        self._sources = training.sources or Sources({"": len(training.rows)})
        self.steps_per_epoch = config.steps_per_epoch(self._sources.n)
        self.n_steps = config.n_steps(self._sources.n)
        self._last_step = max(1, round((training.until or 1.0) * self.n_steps))
        tell_endless_warmup(self.n_steps, config)
        self._peak_rate = config.learning_rate or tuned.method.learning_rate
        self._peak = Peak(self._device, anew=training.measures_memory)  # its moments are still to come
        self._own_bytes: int | None = None
        self._optimiser = Optimiser(tuned.trainable, config, tuned.method.learning_rate_factor)
        self._state = State(tuned, self._optimiser, training.folder)
        self._epoch: tuple[int, list[list[int]]] = (-1, [])
        self._ahead: tuple[int, list[_Drawn]] = (-1, [])
        self._state.resume(self._identity)
        self.resumed_from, self._seconds_before = self._state.position.step, self._state.position.seconds

    def steps(self, interrupts: Interrupts) -> Steps:
        """Every step from the present position on; the reason why it ended."""
        watcher, position = self.training.progress or Silent(), self._state.position
        every, dev_score = self._config.checkpoint_every, self.training.dev_score
        watcher.started(self._tuned.method.name, self.resumed_from, self._last_step)
        try:
            while position.step < self._last_step and not self._patience_is_out:
                random_state = checkpoint.random_state(self._device)
                if not (yield from self._step(watcher, interrupts)):
                    # the step's gradients are thrown away: it is taken again, with the same dropout, after the resume
                    checkpoint.set_random_state(*random_state, self._device)
                    self._stop(interrupts.requested)
                if dev_score is not None and self._evaluation_is_due():
                    yield from self._evaluate(dev_score, watcher)
                if position.step == self._last_step or self._patience_is_out:
                    break
                if interrupts.requested or (every and position.step % every == 0):
                    self.save()
                if interrupts.requested:
                    self._stop(interrupts.requested)
            if self.training.until is not None:
                self.save()
                if interrupts.requested:
                    self._stop(interrupts.requested)
        finally:
            watcher.finished()
        if self._patience_is_out:
            return "patience"
        return "steps" if position.step == self.n_steps else "until"

    def _step(self, watcher: Watcher, interrupts: Interrupts) -> Generator[Asked, Any, bool]:
        """One optimiser step; False, with nothing changed, when an interrupt came before its last batch."""
        start, shared, waited = time.perf_counter(), 0.0, 0.0
        position, weighing = self._state.position, self.training.weighing
        drawn, has_several = self._batches(position.step), len(self._sources.names) > 1
        batches = [each.batch for each in drawn]
        n_labels = sum(batch.n_labels for batch in batches)
        weight = sum(map(self._weight, chain.from_iterable(each.rows for each in drawn))) if weighing else n_labels
        total = torch.zeros((), dtype=torch.float64, device=self._device)
        by_row: list[Tensor] = []
        for batch, numbers in ((each.batch, each.rows) for each in drawn):
            if interrupts.requested:
                self._optimiser.zero_grad()
                return False
            asked, of_rows = time.perf_counter(), weighing.by_row(numbers)
            answer = yield Asked(batch, weight, has_several or of_rows is not None, of_rows)
            waited += time.perf_counter() - asked
            shared += answer.seconds
            total += answer.loss
            by_row += [answer.by_row.to(total)] if has_several and answer.by_row is not None else []
        penalty = self._tuned.method.penalty(self._tuned.deltas)
        if penalty is not None:
            penalty.backward()
        norm = self._optimiser.gradient_norm(self._config.clip)
        if position.step + 1 < self.n_steps:  # while a GPU is still at work
            self._ahead = position.step + 1, self._batches(position.step + 1)
        told = torch.cat([torch.stack([total, norm.to(total)]), *by_row])  # one wait for a GPU
        mean_loss, gradient_norm, *losses = told.tolist()
        if not (math.isfinite(mean_loss) and math.isfinite(gradient_norm)):
            raise self._not_finite(mean_loss, batches)
        learning_rate = learning_rate_at(position.step, self.n_steps, self._peak_rate, self._config)
        self._optimiser.step(learning_rate)
        self._tuned.method.after_step(self._tuned.deltas, position.step + 1, self.n_steps)
        self._optimiser.zero_grad()
        n_tokens = sum(batch.n_tokens for batch in batches)
        seconds = time.perf_counter() - start - waited + shared
        position.step += 1
        position.tokens += n_tokens
        position.seconds += seconds
        position.losses.append(mean_loss)
        record = {
            "step": position.step,
            "epoch": round(position.step / self.steps_per_epoch, 4),
            "loss": mean_loss,
            "learning_rate": learning_rate,
            "gradient_norm": gradient_norm,
            "tokens": n_tokens,
            "label_tokens": n_labels,
            "seconds": round(seconds, 6),
        }
        if has_several:
            record["by_source"] = self._by_source([row for each in drawn for row in each.rows], losses)
        self._log(record)
        watcher.stepped(position.step, mean_loss, n_tokens)
        if has_several:
            watcher.told_by_source({name: found["loss"] for name, found in record["by_source"].items()})
        return True

    def _log(self, line: dict[str, Any]) -> None:
        files.append_json(self.training.folder / LOG, line)
        if self.training.told is not None:
            self.training.told(line)

    def _by_source(self, rows: list[int], losses: list[float]) -> dict[str, dict[str, float]]:
        """The mean loss of the labels of each source that is among these rows, and how many labels those are."""
        found: list[list[int]] = [[] for _ in self._sources.names]
        for place, row in enumerate(rows):
            found[self._sources.of(row)].append(place)
        told = {}
        for name, places in zip(self._sources.names, found, strict=True):
            n_labels = sum(self._objective.n_labels(self.training.rows[rows[place]]) for place in places)
            if n_labels:
                weight = sum(self._weight(rows[place]) for place in places)
                told[name] = {"loss": math.fsum(losses[place] for place in places) / weight, "label_tokens": n_labels}
        return told

    def _weight(self, row: int) -> float:
        """What the labels of the row with this number count."""
        return self.training.weighing.of_row(row, self.training.rows[row], self._objective)

    def _batches(self, step: int) -> list[_Drawn]:
        """The batches of one step; a step never crosses from one epoch into the next."""
        if self._ahead[0] == step:
            return self._ahead[1]
        epoch, index = divmod(step, self.steps_per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._sources.batches(self._config.batch_size, self.training.seed, epoch))
        start = index * self._config.accumulation
        chosen = self._epoch[1][start : start + self._config.accumulation]
        parts = [part for batch in chosen for part in self._parts(batch)]
        drawn = [_Drawn(self._objective.collate([self.training.rows[i] for i in part]), part) for part in parts]
        return [each for each in drawn if each.batch.n_labels]

    def _parts(self, batch: list[int]) -> list[list[int]]:
        """The rows of a batch; those to be padded are apart by length."""
        if self._objective.layout != "padded":
            return [batch]
        cost = FORWARD_COST if self._device.type == "cpu" else FORWARD_COST_ELSEWHERE
        lengths = [len(self.training.rows[i].ids) for i in batch]
        return [[batch[i] for i in part] for part in buckets(lengths, cost)]

    def _evaluation_is_due(self) -> bool:
        if self._config.evaluate_every is None:
            return False
        every = max(1, round(self._config.evaluate_every * self.steps_per_epoch))
        return self._state.position.step % every == 0 or self._state.position.step == self.n_steps

    def _evaluate(self, dev_score: Callable[[], float], watcher: Watcher) -> Generator[ToScore, float]:
        """Have the present state scored and keep it where it is the best."""
        position = self._state.position
        if self._own_bytes is None:
            self._own_bytes = self._peak.own_bytes()
        score = yield ToScore(partial(self._score, dev_score))
        position.scores.append((position.step, score))
        is_best = position.best_score is None or score > position.best_score
        if is_best:
            position.best_score, position.best_step, position.n_without_gain = score, position.step, 0
            self._state.keep_best()
        else:
            position.n_without_gain += 1
        self._log({"step": position.step, "dev": score, "best": is_best})
        watcher.evaluated(position.step, score, is_best)

    def _score(self, dev_score: Callable[[], float]) -> float:
        with evaluating(self._tuned.model), self._alone():
            return float(dev_score())

    @property
    def _patience_is_out(self) -> bool:
        patience = self._config.patience
        return patience is not None and self._state.position.n_without_gain >= patience

    def _not_finite(self, loss: float, batches: list[Any]) -> Diverged:
        """The error for a loss or gradient that is NaN or infinite, naming the rows that make it so."""
        self._optimiser.zero_grad()
        model, culprits = self._tuned.model, list[str]()
        with torch.no_grad(), evaluating(model), self._alone(), self._objective.ready(model):
            for batch in batches:
                losses = self._objective.row_losses(model, batch.to(self._device))
                finite = losses.isfinite().tolist()
                culprits += [row_id for row_id, is_finite in zip(batch.ids, finite, strict=True) if not is_finite]
        what = "the gradient" if math.isfinite(loss) else "the loss"
        named = culprits or [row_id for batch in batches for row_id in batch.ids]
        rows = ", ".join(named[:8]) + (f" and {len(named) - 8} more" if len(named) > 8 else "")
        return Diverged(
            f"{what} is not finite at step {self._state.position.step + 1} of {self.n_steps}; rows: {rows}",
            f"no weight was changed by this step; lower train.learning_rate (now {self._peak_rate:g}), "
            "or look at those rows",
        )

    def result(self, stopped_by: str) -> FitResult:
        """Put the best state back into the tuned model and sum up."""
        position = self._state.position
        self._state.take_best()
        return FitResult(
            steps=position.step,
            n_steps=self.n_steps,
            losses=position.losses,
            scores=position.scores,
            best_step=position.best_step or position.step,
            best_score=position.best_score,
            seconds=position.seconds,
            tokens=position.tokens,
            tokens_per_second=position.tokens / max(1e-9, position.seconds),
            peak_bytes=self._peak.bytes(),
            peak_measure=self._peak.measure + (f", of {self._n_lanes} lanes" if self._n_lanes > 1 else ""),
            stopped_by=stopped_by,
            resumed_from=self.resumed_from,
            seconds_before=self._seconds_before,
            lanes=self._n_lanes,
            own_bytes=self._peak.own_bytes() if self._own_bytes is None else self._own_bytes,
        )

    def save(self) -> None:
        """Write a checkpoint, unless there is one of this step."""
        self._state.save(self._identity, self.steps_per_epoch, self._config.accumulation)

    def _stop(self, signal_name: str) -> None:
        if self._state.position.step:
            self.save()
        raise Interrupted(
            f"{signal_name} after step {self._state.position.step} of {self.n_steps}; "
            f"the state is in {self._state.checkpoints}",
            "run the same command again to go on from there",
        )

    @cached_property
    def _identity(self) -> str:
        """A digest of what has to be the same for a checkpoint to be resumed."""
        config = self._config.model_dump(mode="json", exclude={"checkpoint_every", "lanes", "report_to"})
        content = [config, self._tuned.method.configuration(), self.training.seed, self._prefix_ids]
        digest = hashlib.sha256(json.dumps(content).encode())
        if self._sources.rates:
            digest.update(json.dumps([self._sources.names, self._sources.rates, self._sources.n]).encode())
        for row in self.training.rows:
            digest.update(row.id.encode() + array("q", row.ids).tobytes() + array("d", row.labels).tobytes())
        return digest.hexdigest()[:32]
