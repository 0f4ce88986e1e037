"""The adapter of a run: its folder, what it tells those who serve it, and the proofs that both are there."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from tunewise.data.task import Task
from tunewise.identity import digest_of_arm
from tunewise.methods.attach import Tuned
from tunewise.methods.store import Probe, Said, read_card, save_adapter
from tunewise.models.load import Base
from tunewise.run import record
from tunewise.run.kept import kept
from tunewise.run.recipe import Recipe
from tunewise.training.proofs import Proof, Untouched, at_most, probe_logits

_SAVED: dict[tuple[str, ...], int] = {}
"""Bytes of what was written on trial, of each kind and in each place."""


@dataclass(frozen=True)
class Saving:
    """Where and how a run saves what it trained."""

    recipe: Recipe
    base: Base
    task: Task
    tuned: Tuned
    out: Path

    def succeeds(self) -> dict[str, Proof]:
        """A trial save beside the real place, so that a full disk is told now and not after the training: once for all
        seeds, as long as there is room for twice as much."""
        arm = digest_of_arm(self.recipe.model_dump(mode="json"))
        kind = arm, self.base.fingerprint, str(self.base.dtype), str(self.out.parent.absolute())
        n_bytes = _SAVED.get(kind)
        if n_bytes is None or shutil.disk_usage(self.out).free < 2 * n_bytes:
            trial = self.out / ".trial"
            try:
                self._write(trial)
                n_bytes = _SAVED[kind] = record.folder_bytes(trial)
            finally:
                shutil.rmtree(trial, ignore_errors=True)
        return {"a_save_succeeds": {"passed": True, "value": n_bytes, "tolerance": None}}

    def save(self, before: Untouched) -> tuple[Proof, Tensor]:
        """Write the adapter; the proof that it says how its prompts were written, and what it says to the probes by
        which its reload is proved."""
        folder, tuned = self.out / record.ADAPTER, self.tuned
        said = probe_logits(tuned.model, before.probes, tuned.prefix_ids)
        self._write(folder, before.probes, (said, before.logits))
        saved = read_card(folder)["notes"]
        return at_most(int(saved != json.loads(json.dumps(self._notes()))), 0), said

    def _write(self, folder: Path, probes: Sequence[Probe] = (), said: Said = (None, None)) -> None:
        base = self.base
        save_adapter(
            self.tuned, folder, tokenizer=base.tokenizer, base_name=base.name, base_fingerprint=base.fingerprint,
            notes=self._notes(), probe=probes, said=said,
        )  # fmt: skip

    def _notes(self) -> dict[str, object]:
        """What serving has to know: how the prompts were written that this adapter was trained on."""
        tokenizer, each = self.base.tokenizer, self.task.each if self.task.mixture else {}
        of_each = {name: kept(task, tokenizer) for name, task in each.items()}
        return {
            "task": self.task.name,
            **kept(self.task, tokenizer),
            **({"sources": of_each} if of_each else {}),
            "head": self.recipe.head,
            "data": self.recipe.data.model_copy(update={"replay": ()}).model_dump(mode="json"),
        }
