"""What changes while a run is trained, as a checkpoint holds it."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunewise import files
from tunewise.errors import UserError
from tunewise.methods.attach import Tuned
from tunewise.models.aside import bytes_of, is_large
from tunewise.training import checkpoint
from tunewise.training.checkpoint import Checkpoint
from tunewise.training.optimiser import Optimiser

LOG = "log.jsonl"
CHECKPOINTS = "checkpoints"


@dataclass
class Position:
    """Where a run is: everything that grows with its steps and is no tensor."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_step: int = 0
    best_score: float | None = None
    n_without_gain: int = 0
    losses: list[float] = field(default_factory=list)
    scores: list[tuple[int, float]] = field(default_factory=list)


class State:
    """The tuned values, the optimiser, the position, the best values so far, and torch's and Python's generators."""

    def __init__(self, tuned: Tuned, optimiser: Optimiser, folder: Path) -> None:
        self._tuned, self._optimiser, self._folder = tuned, optimiser, folder
        self.position = Position()
        self._best: dict[str, Tensor] | None = None  # None too for one that is on the disk
        self._saved_step = self._saved_best_step = 0

    @property
    def checkpoints(self) -> Path:
        return self._folder / CHECKPOINTS

    def resume(self, identity: str) -> None:
        """Take up the checkpoint in the folder, where there is one, and cut the log back to it.

        Raises UserError for a checkpoint of another `identity`.
        """
        found = checkpoint.load(self.checkpoints)
        if found is not None:
            if found.state["identity"] != identity:
                raise UserError(
                    f"the checkpoint in {self.checkpoints} belongs to another run",
                    "give another --out folder, or remove that one",
                )
            self._restore(found)
        self._cut_log()

    def _restore(self, found: Checkpoint) -> None:
        tensors = found.tensors
        self._tuned.load_state(_under("trained.", tensors))
        self._optimiser.load_state(_under("optimiser.", tensors))
        self._best = _under("best.", tensors) or None
        losses = tensors["losses"].tolist()
        scores = [(step, score) for step, score in found.state["position"]["scores"]]
        self.position = Position(**{**found.state["position"], "losses": losses, "scores": scores})
        self._saved_step, self._saved_best_step = self.position.step, self.position.best_step
        if self._best is None and self.position.best_score is not None:
            checkpoint.load_best(self.checkpoints, self.position.best_step)  # told now, and not when it is wanted
        checkpoint.set_random_state(tensors, found.state["random"], self._tuned.model.device)

    def keep_best(self) -> None:
        """Keep the present values, those of the best step: in memory, and in the checkpoints, or large ones in a file.

        A file that the last checkpoint speaks of stays until there is a newer one.
        """
        if not is_large(bytes_of(self._tuned.values())):
            self._best = self._tuned.state()
            return
        self._best = None
        checkpoint.save_best(self.checkpoints, self.position.best_step, self._tuned.values())
        checkpoint.remove_bests(self.checkpoints, {self.position.best_step, self._saved_best_step})

    def take_best(self) -> None:
        """Put the values of the best step, where there is one, back into what is tuned."""
        best_step = self.position.best_step
        if self.position.best_score is not None and best_step != self.position.step:
            self._tuned.load_state(self._best or checkpoint.load_best(self.checkpoints, best_step))

    def save(self, identity: str, steps_per_epoch: int, accumulation: int) -> None:
        """Write a checkpoint of this position, unless there is one."""
        if self._saved_step == self.position.step:
            return
        position: dict[str, Any] = asdict(self.position)
        random_tensors, random_numbers = checkpoint.random_state(self._tuned.model.device)
        tensors = {
            "losses": torch.tensor(position.pop("losses"), dtype=torch.float64),
            **{f"trained.{name}": tensor for name, tensor in self._tuned.values().items()},
            **{f"optimiser.{name}": tensor for name, tensor in self._optimiser.state().items()},
            **{f"best.{name}": tensor for name, tensor in (self._best or {}).items()},
            **random_tensors,
        }
        epoch, index = divmod(self.position.step, steps_per_epoch)
        cursor = {"epoch": epoch, "batch": index * accumulation, "accumulated": 0}
        state = {"identity": identity, "position": position, "cursor": cursor, "random": random_numbers}
        checkpoint.save(self.checkpoints, self.position.step, Checkpoint(tensors, state))
        self._saved_step, self._saved_best_step = self.position.step, self.position.best_step
        checkpoint.remove_bests(self.checkpoints, {self.position.best_step})

    def _cut_log(self) -> None:
        """Drop the lines of steps that will be taken again, and a last line that was cut in two."""
        path = self._folder / LOG
        if not path.exists():
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= self.position.step:
                    kept.append(line)
            except ValueError:
                continue
        files.write_text(path, "".join(f"{line}\n" for line in kept))


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
