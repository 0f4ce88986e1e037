"""The one training loop: `fit` trains whatever a tuned model declares trainable."""

import hashlib
import json
import math
import time
import warnings
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunewise import files
from tunewise.data.encode import Encoded
from tunewise.engine.backend import chosen
from tunewise.engine.batches import FORWARD_COST, FORWARD_COST_ELSEWHERE, buckets, epoch_batches
from tunewise.engine.objectives import Objective
from tunewise.errors import UserError
from tunewise.methods.attach import Tuned
from tunewise.training import checkpoint
from tunewise.training.checkpoint import Checkpoint
from tunewise.training.config import TrainConfig
from tunewise.training.interrupt import Interrupted, Interrupts
from tunewise.training.memory import Peak
from tunewise.training.optimiser import Optimiser, learning_rate_at
from tunewise.training.progress import Silent, Watcher

LOG = "log.jsonl"
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class FitResult:
    """What a training run was."""

    steps: int
    losses: list[float]
    """Mean nats per label token, one a step."""
    scores: list[tuple[int, float]]
    """(step, dev score) of every evaluation."""
    best_step: int
    """The step whose state the tuned model holds now."""
    best_score: float | None
    seconds: float
    """In steps: without evaluations and checkpoints."""
    tokens: int
    """Tokens seen, prompts and prefixes included, padding not."""
    tokens_per_second: float
    peak_bytes: int
    peak_measure: str
    stopped_by: str
    """"steps" or "patience"."""
    resumed_from: int
    """The step a checkpoint was read at; 0 for a run in one go."""


@dataclass
class _Position:
    """Where a run is: everything that grows with its steps and is no tensor."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_step: int = 0
    best_score: float | None = None
    n_without_gain: int = 0
    losses: list[float] = field(default_factory=list)
    scores: list[tuple[int, float]] = field(default_factory=list)


def fit(
    tuned: Tuned,
    rows: Sequence[Encoded],
    config: TrainConfig,
    *,
    seed: int,
    folder: Path,
    objective: Objective[Any],
    dev_score: Callable[[], float] | None = None,
    progress: Watcher | None = None,
) -> FitResult:
    """Train `tuned` on `rows` and leave its best state in it; log.jsonl and checkpoints are written into `folder`.

    A checkpoint found in `folder` is resumed, bit for bit. `dev_score` is called with the model in evaluation mode;
    higher is better, and of equal scores the earlier state is kept. Raises UserError when the loss or the gradient is
    no longer finite (before any weight is touched) and Interrupted after Ctrl-C or SIGTERM.
    """
    watcher = progress or Silent()
    devices = [tuned.model.device] if tuned.model.device.type == "cuda" else []
    with torch.random.fork_rng(devices), training_mode(tuned, config), chosen(), Interrupts() as interrupts:
        torch.manual_seed(seed)
        loop = _Loop(tuned, rows, config, seed, folder, objective)
        resumed_from = loop.resume()
        watcher.started(tuned.method.name, resumed_from, loop.n_steps)
        try:
            stopped_by = loop.carry_out(dev_score, watcher, interrupts)
        finally:
            watcher.finished()
    return loop.result(stopped_by, resumed_from)


@contextmanager
def training_mode(tuned: Tuned, config: TrainConfig) -> Iterator[None]:
    """Dropout on, and activations recomputed where `config` asks for it; evaluation mode and no gradients after."""
    tuned.model.train()
    if config.checkpointing:
        with _the_older_name():
            tuned.model.gradient_checkpointing_enable({"use_reentrant": False})
    try:
        yield
    finally:
        if config.checkpointing:
            with _the_older_name():
                tuned.model.gradient_checkpointing_disable()
        tuned.model.eval()
        for tensor in tuned.trainable.values():
            tensor.grad = None


@contextmanager
def _the_older_name() -> Iterator[None]:
    """transformers 5.17 knows gradient_checkpointing only; newer ones warn that version 6 will not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


class _Loop:
    def __init__(
        self,
        tuned: Tuned,
        rows: Sequence[Encoded],
        config: TrainConfig,
        seed: int,
        folder: Path,
        objective: Objective[Any],
    ) -> None:
        if not rows:
            raise UserError("there is no row to train on", "check the train split of the data")
        self._tuned, self._rows, self._config, self._seed = tuned, rows, config, seed
        self._folder, self._objective, self._device = folder, objective, tuned.model.device
        self._prefix_ids = tuned.prefix_ids
        n_batches = math.ceil(len(rows) / config.batch_size)
        self.steps_per_epoch = math.ceil(n_batches / config.accumulation)
        self.n_steps = config.steps or max(1, round(config.epochs * self.steps_per_epoch))
        self._peak_rate = config.learning_rate or tuned.method.learning_rate
        self._optimiser = Optimiser(tuned.trainable, config.weight_decay, tuned.method.learning_rate_factor)
        self._position = _Position()
        self._best: dict[str, Tensor] | None = None
        self._saved_step = 0
        self._epoch: tuple[int, list[list[int]]] = (-1, [])
        self._peak = Peak(self._device)

    def carry_out(self, dev_score: Callable[[], float] | None, watcher: Watcher, interrupts: Interrupts) -> str:
        """Every step from the present position on; the reason why it ended."""
        every = self._config.checkpoint_every
        position = self._position
        while position.step < self.n_steps:
            random_state = checkpoint.random_state(self._device)
            if not self._step(watcher, interrupts):
                # the step's gradients are thrown away: it is taken again, with the same dropout, after the resume
                checkpoint.set_random_state(*random_state, self._device)
                self._stop(interrupts.requested)
            if dev_score is not None and self._evaluation_is_due() and self._evaluate(dev_score, watcher):
                return "patience"
            if position.step < self.n_steps and (interrupts.requested or (every and position.step % every == 0)):
                self._save()
            if interrupts.requested and position.step < self.n_steps:
                self._stop(interrupts.requested)
        return "steps"

    def _step(self, watcher: Watcher, interrupts: Interrupts) -> bool:
        """One optimiser step; False, with nothing changed, when an interrupt came before its last batch."""
        start = time.perf_counter()
        position = self._position
        batches = self._batches(position.step)
        n_labels = sum(batch.n_labels for batch in batches)
        total = torch.zeros((), dtype=torch.float64, device=self._device)
        for batch in batches:
            if interrupts.requested:
                self._optimiser.zero_grad()
                return False
            with self._objective.ready(self._tuned.model):
                loss = self._objective.loss(self._tuned.model, batch.to(self._device)) / n_labels
                loss.backward()
            total += loss.detach()
        penalty = self._tuned.method.penalty(self._tuned.deltas)
        if penalty is not None:
            penalty.backward()
        norm = self._optimiser.gradient_norm(self._config.clip)
        mean_loss, gradient_norm = torch.stack([total, norm.to(total)]).tolist()
        if not (math.isfinite(mean_loss) and math.isfinite(gradient_norm)):
            raise self._not_finite(mean_loss, batches)
        learning_rate = learning_rate_at(position.step, self.n_steps, self._peak_rate, self._config)
        self._optimiser.step(learning_rate)
        self._tuned.method.after_step(self._tuned.deltas, position.step + 1, self.n_steps)
        self._optimiser.zero_grad()
        n_tokens = sum(batch.n_tokens for batch in batches)
        seconds = time.perf_counter() - start
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
        files.append_json(self._folder / LOG, record)
        watcher.stepped(position.step, mean_loss, n_tokens)
        return True

    def _batches(self, step: int) -> list[Any]:
        """The batches of one step; a step never crosses from one epoch into the next."""
        epoch, index = divmod(step, self.steps_per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, epoch_batches(len(self._rows), self._config.batch_size, self._seed, epoch))
        start = index * self._config.accumulation
        chosen = self._epoch[1][start : start + self._config.accumulation]
        batches = [self._objective.collate(part) for batch in chosen for part in self._parts(batch)]
        return [batch for batch in batches if batch.n_labels]

    def _parts(self, batch: list[int]) -> list[list[Encoded]]:
        """The rows of a batch; those to be padded are apart by length."""
        rows = [self._rows[i] for i in batch]
        if self._objective.layout != "padded":
            return [rows]
        cost = FORWARD_COST if self._device.type == "cpu" else FORWARD_COST_ELSEWHERE
        apart = buckets([len(row.ids) for row in rows], cost)
        return [[rows[i] for i in part] for part in apart]

    def _evaluation_is_due(self) -> bool:
        if self._config.evaluate_every is None:
            return False
        every = max(1, round(self._config.evaluate_every * self.steps_per_epoch))
        return self._position.step % every == 0 or self._position.step == self.n_steps

    def _evaluate(self, dev_score: Callable[[], float], watcher: Watcher) -> bool:
        """Score the present state and keep it where it is the best; True when patience has run out."""
        position = self._position
        self._tuned.model.eval()
        score = float(dev_score())
        self._tuned.model.train()
        position.scores.append((position.step, score))
        is_best = position.best_score is None or score > position.best_score
        if is_best:
            position.best_score, position.best_step, position.n_without_gain = score, position.step, 0
            self._best = self._tuned.state()
        else:
            position.n_without_gain += 1
        files.append_json(self._folder / LOG, {"step": position.step, "dev": score, "best": is_best})
        watcher.evaluated(position.step, score, is_best)
        return self._config.patience is not None and position.n_without_gain >= self._config.patience

    def _not_finite(self, loss: float, batches: list[Any]) -> UserError:
        """The error for a loss or gradient that is NaN or infinite, naming the rows that make it so."""
        self._optimiser.zero_grad()
        self._tuned.model.eval()
        culprits: list[str] = []
        with torch.no_grad(), self._objective.ready(self._tuned.model):
            for batch in batches:
                losses = self._objective.row_losses(self._tuned.model, batch.to(self._device))
                finite = losses.isfinite().tolist()
                culprits += [row_id for row_id, is_finite in zip(batch.ids, finite, strict=True) if not is_finite]
        what = "the gradient" if math.isfinite(loss) else "the loss"
        named = culprits or [row_id for batch in batches for row_id in batch.ids]
        rows = ", ".join(named[:8]) + (f" and {len(named) - 8} more" if len(named) > 8 else "")
        return UserError(
            f"{what} is not finite at step {self._position.step + 1} of {self.n_steps}; rows: {rows}",
            f"no weight was changed by this step; lower train.learning_rate (now {self._peak_rate:g}), "
            "or look at those rows",
        )

    def result(self, stopped_by: str, resumed_from: int) -> FitResult:
        """Put the best state back into the tuned model and sum up."""
        position = self._position
        if self._best is not None and position.best_step != position.step:
            self._tuned.load_state(self._best)
        return FitResult(
            steps=position.step,
            losses=position.losses,
            scores=position.scores,
            best_step=position.best_step or position.step,
            best_score=position.best_score,
            seconds=position.seconds,
            tokens=position.tokens,
            tokens_per_second=position.tokens / max(1e-9, position.seconds),
            peak_bytes=self._peak.bytes(),
            peak_measure=self._peak.measure,
            stopped_by=stopped_by,
            resumed_from=resumed_from,
        )

    def resume(self) -> int:
        """Take up the checkpoint in the folder, where there is one, and cut the log back to it; the step it is at."""
        found = checkpoint.load(self._folder / CHECKPOINTS)
        if found is not None:
            self._restore(found)
        self._cut_log()
        return self._position.step

    def _restore(self, found: Checkpoint) -> None:
        if found.state["identity"] != self._identity:
            raise UserError(
                f"the checkpoint in {self._folder / CHECKPOINTS} belongs to another run",
                "give another --out folder, or remove that one",
            )
        tensors = found.tensors
        self._tuned.load_state(_under("trained.", tensors))
        self._optimiser.load_state(_under("optimiser.", tensors))
        self._best = _under("best.", tensors) or None
        losses = tensors["losses"].tolist()
        scores = [(step, score) for step, score in found.state["position"]["scores"]]
        self._position = _Position(**{**found.state["position"], "losses": losses, "scores": scores})
        self._saved_step = self._position.step
        checkpoint.set_random_state(tensors, found.state["random"], self._device)

    def _save(self) -> None:
        if self._saved_step == self._position.step:
            return
        position: dict[str, Any] = asdict(self._position)
        random_tensors, random_numbers = checkpoint.random_state(self._device)
        tensors = {
            "losses": torch.tensor(position.pop("losses"), dtype=torch.float64),
            **{f"trained.{name}": tensor for name, tensor in self._tuned.state().items()},
            **{f"optimiser.{name}": tensor for name, tensor in self._optimiser.state().items()},
            **{f"best.{name}": tensor for name, tensor in (self._best or {}).items()},
            **random_tensors,
        }
        epoch, index = divmod(self._position.step, self.steps_per_epoch)
        cursor = {"epoch": epoch, "batch": index * self._config.accumulation, "accumulated": 0}
        state = {"identity": self._identity, "position": position, "cursor": cursor, "random": random_numbers}
        checkpoint.save(self._folder / CHECKPOINTS, self._position.step, Checkpoint(tensors, state))
        self._saved_step = self._position.step

    def _stop(self, signal_name: str) -> None:
        if self._position.step:
            self._save()
        raise Interrupted(
            f"{signal_name} after step {self._position.step} of {self.n_steps}; "
            f"the state is in {self._folder / CHECKPOINTS}",
            "run the same command again to go on from there",
        )

    @cached_property
    def _identity(self) -> str:
        """A digest of what has to be the same for a checkpoint to be resumed."""
        config = self._config.model_dump(mode="json", exclude={"checkpoint_every"})
        content = [config, self._tuned.method.configuration(), self._seed, self._prefix_ids]
        digest = hashlib.sha256(json.dumps(content).encode())
        for row in self._rows:
            digest.update(row.id.encode() + array("q", row.ids).tobytes() + array("d", row.labels).tobytes())
        return digest.hexdigest()[:32]

    def _cut_log(self) -> None:
        """Drop the lines of steps that will be taken again, and a last line that was cut in two."""
        path = self._folder / LOG
        if not path.exists():
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= self._position.step:
                    kept.append(line)
            except ValueError:
                continue
        files.write_text(path, "".join(f"{line}\n" for line in kept))


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
