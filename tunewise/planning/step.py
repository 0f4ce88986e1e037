"""One step of training on a stage, and what is alive at the highest moment of each of its parts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tunewise.data.encode import Encoded
from tunewise.engine.batches import LabelledBatch
from tunewise.engine.from_trunk import FromTrunk
from tunewise.engine.fused import pretend_copies
from tunewise.engine.objectives import Images, Objective
from tunewise.engine.recomputing import recompute
from tunewise.methods.attach import Tuned
from tunewise.models.ends import EightBitEnd
from tunewise.models.packed_shell import PackedShell
from tunewise.planning.moments import Moments
from tunewise.planning.recorder import Computed, Recorder, Segment
from tunewise.planning.work import Memory, Work

Peaks = dict[Segment, dict[str, int]]
"""Bytes by kind (the fields of Memory) at the highest moment of each segment."""


@dataclass(frozen=True)
class Taken:
    """What a step takes."""

    peaks: Peaks
    computed: Computed
    trunk_pass: Computed
    """What was computed to have what leaves a trunk, before the step; nothing without one."""
    kept_bytes: int = 0
    """Of what left it."""


KINDS = tuple(name for name in Memory.__dataclass_fields__ if name != "process")


class Step:
    """A step that is about to be taken, inside `recording`."""

    def __init__(
        self,
        recorder: Recorder,
        tuned: Tuned,
        objective: Objective[Any] | FromTrunk,
        work: Work,
        layers: Sequence[int],
        rows: Sequence[Encoded],
        in_parts: bool = False,
    ) -> None:
        """`in_parts` where what is trained is so much that it is updated layer by layer."""
        self._recorder, self._tuned, self._objective = recorder, tuned, objective
        self._work, self._layers, self._in_parts = work, layers, in_parts
        self._rows, self._phase, self._is_forward = rows, "", True
        self._kinds: dict[int, str] = {}

    def rehearse(self) -> Taken:
        """Take it."""
        recorder, tuned = self._recorder, self._tuned
        pretend_copies(tuned.model)
        self._note("weights", recorder.present())
        for module in tuned.model.modules():
            if isinstance(module, PackedShell | EightBitEnd):
                self._note("constants", {recorder.number_of(tensor) for tensor in module.constants()})
        before = recorder.present()
        best = tuned.state() if self._work.keeps_best else {}
        self._note("weights", recorder.present())
        before = recorder.present()
        optimiser = Moments(tuned.trainable, self._work.optimiser, self._in_parts, self._work.decays)
        self._note("optimiser", recorder.present() - before)
        tuned.model.train()
        if self._work.checkpointing:
            recompute(tuned.model, on=True)
        self._mark_layers()
        trunk_pass, kept_bytes = self._run_the_trunk()
        batch = self._batch()
        recorder.computed.taken()
        before = recorder.present()
        with self._objective.ready(tuned.model), torch.set_grad_enabled(bool(tuned.trainable)):
            starts_at_head = isinstance(self._objective, FromTrunk) and self._objective.trunk.live == "head"
            recorder.enter("behind" if starts_at_head else "before")
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
        recorder.enter("norm")
        optimiser.measure()
        for part in optimiser.parts:
            recorder.enter(*self._update_of(part, is_whole=len(optimiser.parts) == 1))
            self._note_gradients(optimiser.widened(part))
            optimiser.step(part)
        del best
        return Taken(self._peaks(), recorder.computed.taken(), trunk_pass, kept_bytes)

    def _run_the_trunk(self) -> tuple[Computed, int]:
        """Run the rows of the step through the trunk, where it starts from there; and the bytes that are kept of it."""
        recorder, objective = self._recorder, self._objective
        if not isinstance(objective, FromTrunk):
            return Computed(), 0
        recorder.computed.taken()
        before, self._phase = recorder.present(), "trunk "
        recorder.enter("trunk before")
        objective.compute(self._tuned.model)
        self._phase = ""
        kept = recorder.present() - before
        self._note("cache", kept)
        return recorder.computed.taken(), sum(recorder.sizes[number] for number in kept)

    def _note(self, kind: str, numbers: set[int]) -> None:
        for number in numbers:
            self._kinds.setdefault(number, kind)
        if kind == "constants":
            self._kinds.update(dict.fromkeys(numbers, kind))

    def _update_of(self, part: Sequence[str], is_whole: bool) -> Segment:
        """The segment in which a part is updated: that of its layer, or of a tensor beside the layers."""
        number = None if is_whole else self._tuned.anatomy.layer_of(part[0].removeprefix("base."))
        if is_whole or number is not None:
            return "update", number or 0
        return f"update of {part[0]}", 0

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
                self._recorder.enter(f"{self._phase}forward", number)

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
                self._recorder.enter(f"{self._phase}behind")

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
        return objective.collate(self._rows)

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
