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
        self.best: dict[str, Tensor] | None = None
        self._saved_step = 0

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
        self.best = _under("best.", tensors) or None
        losses = tensors["losses"].tolist()
        scores = [(step, score) for step, score in found.state["position"]["scores"]]
        self.position = Position(**{**found.state["position"], "losses": losses, "scores": scores})
        self._saved_step = self.position.step
        checkpoint.set_random_state(tensors, found.state["random"], self._tuned.model.device)

    def save(self, identity: str, steps_per_epoch: int, accumulation: int) -> None:
        """Write a checkpoint of this position, unless there is one."""
        if self._saved_step == self.position.step:
            return
        position: dict[str, Any] = asdict(self.position)
        random_tensors, random_numbers = checkpoint.random_state(self._tuned.model.device)
        tensors = {
            "losses": torch.tensor(position.pop("losses"), dtype=torch.float64),
            **{f"trained.{name}": tensor for name, tensor in self._tuned.state().items()},
            **{f"optimiser.{name}": tensor for name, tensor in self._optimiser.state().items()},
            **{f"best.{name}": tensor for name, tensor in (self.best or {}).items()},
            **random_tensors,
        }
        epoch, index = divmod(self.position.step, steps_per_epoch)
        cursor = {"epoch": epoch, "batch": index * accumulation, "accumulated": 0}
        state = {"identity": identity, "position": position, "cursor": cursor, "random": random_numbers}
        checkpoint.save(self.checkpoints, self.position.step, Checkpoint(tensors, state))
        self._saved_step = self.position.step

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
