"""One step of training on a stage, and what is alive at the highest moment of each of its parts."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tunewise.engine.batches import LabelledBatch
from tunewise.engine.objectives import Images, Labels, Objective, Writing
from tunewise.engine.recomputing import recompute
from tunewise.methods.attach import Tuned
from tunewise.models.ends import EightBitEnd
from tunewise.models.packed_shell import PackedShell
from tunewise.planning.moments import Moments
from tunewise.planning.recorder import Computed, Recorder, Segment
from tunewise.planning.rows import made_up_row
from tunewise.planning.work import Memory, Work

Peaks = dict[Segment, dict[str, int]]
"""Bytes by kind (the fields of Memory) at the highest moment of each segment."""
KINDS = tuple(name for name in Memory.__dataclass_fields__ if name != "process")


class Step:
    """A step that is about to be taken, inside `recording`."""

    def __init__(
        self, recorder: Recorder, tuned: Tuned, objective: Objective[Any], work: Work, layers: Sequence[int]
    ) -> None:
        self._recorder, self._tuned, self._objective = recorder, tuned, objective
        self._work, self._layers = work, layers
        self._is_forward = True
        self._kinds: dict[int, str] = {}

    def rehearse(self) -> tuple[Peaks, Computed]:
        """Take it."""
        recorder, tuned = self._recorder, self._tuned
        self._note("weights", recorder.present())
        for module in tuned.model.modules():
            if isinstance(module, PackedShell | EightBitEnd):
                self._note("constants", {recorder.number_of(tensor) for tensor in module.constants()})
        before = recorder.present()
        best = tuned.state() if self._work.keeps_best else {}
        self._note("weights", recorder.present())
        before = recorder.present()
        optimiser = Moments(tuned.trainable, self._work.optimiser)
        self._note("optimiser", recorder.present() - before)
        tuned.model.train()
        if self._work.checkpointing:
            recompute(tuned.model, on=True)
        self._mark_layers()
        batch = self._batch()
        recorder.computed.clear()
        before = recorder.present()
        with self._objective.ready(tuned.model), torch.set_grad_enabled(bool(tuned.trainable)):
            recorder.enter("before")
            loss = self._objective.loss(tuned.model, batch) / max(1, batch.n_labels)
            kept = recorder.present() - before
            self._note("logits", {number for number in kept if recorder.born[number][0] == "behind"})
            self._note("activations", kept)
            self._is_forward = False
            recorder.enter("loss")
            if tuned.trainable:
                loss.backward()
        penalty = tuned.method.penalty(tuned.deltas)
        if penalty is not None:
            penalty.backward()
        self._note_gradients(tuned.trainable.values())
        recorder.enter("update")
        self._note_gradients(optimiser.widened())
        optimiser.step()
        del best
        return self._peaks(), recorder.computed

    def _note(self, kind: str, numbers: set[int]) -> None:
        for number in numbers:
            self._kinds.setdefault(number, kind)
        if kind == "constants":
            self._kinds.update(dict.fromkeys(numbers, kind))

    def _note_gradients(self, parameters: Any) -> None:
        self._kinds.update(
            (self._recorder.number_of(each.grad), "gradients") for each in parameters if each.grad is not None
        )

    def _mark_layers(self) -> None:
        """Let every layer begin a segment of its own, forward and backward."""
        for number in self._layers:
            layer = self._tuned.model.get_submodule(self._tuned.anatomy.layers[number])
            layer.register_forward_pre_hook(self._entering(number))
            layer.register_forward_hook(self._leaving(number))

    def _entering(self, number: int) -> Any:
        def enter(module: nn.Module, args: Any) -> None:
            if self._is_forward:
                self._recorder.enter("forward", number)

        return enter

    def _leaving(self, number: int) -> Any:
        is_last = number == self._layers[-1]

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            states = output if isinstance(output, Tensor) else output[0]
            if not self._is_forward:
                return
            if states.requires_grad:
                states.register_hook(lambda gradient: self._recorder.enter("backward", number))
            if is_last:
                self._recorder.enter("behind")

        return leave

    def _batch(self) -> Any:
        """Rows that are all as long as the longest."""
        work, objective = self._work, self._objective
        if isinstance(objective, Images):
            config = self._tuned.model.config
            shape = work.rows, config.num_channels, config.image_size, config.image_size
            pixels = torch.empty(shape, dtype=work.dtype)
            with torch.device("cpu"):
                labels = torch.zeros(work.rows, dtype=torch.long)
            return LabelledBatch({"pixel_values": pixels}, labels, work.rows, work.rows, [""] * work.rows)
        base = objective.base if isinstance(objective, Labels | Writing) else None
        row = made_up_row(work, "lm" if base is None else base.head.kind, self._tuned.anatomy.kind, lambda n: (1,) * n)
        return objective.collate([row] * work.rows)

    def _peaks(self) -> Peaks:
        """Replay what came and went."""
        recorder, segment = self._recorder, ("", 0)
        live = dict.fromkeys(KINDS, 0)
        total, found, heights = 0, {}, {}
        for what, which in recorder.events:
            if what == "segment":
                segment = which
            else:
                kind = self._kind(which)
                change = recorder.sizes[which] if what == "taken" else -recorder.sizes[which]
                live[kind] += change
                total += change
            if total > heights.get(segment, -1):
                heights[segment], found[segment] = total, dict(live)
        return {segment: kinds for segment, kinds in found.items() if segment[0] not in _SETTING_UP}

    def _kind(self, number: int) -> str:
        if number in self._kinds:
            return self._kinds[number]
        return "logits" if self._recorder.born[number][0] == "loss" else "workspace"


_SETTING_UP = ("", "weights")
