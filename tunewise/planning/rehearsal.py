"""A rehearsal: one step of training on tensors that hold nothing, which tells the memory and the work of a real one.

The objective, the model with its method, the backward and the optimiser are those of a run; what they allocate, free
and multiply is recorded. Of many layers that are alike three and then four are run, and the rest follows.
"""

from dataclasses import dataclass, field, replace

import torch

from tunewise.engine.backend import backend, n_threads
from tunewise.errors import UserError
from tunewise.garbage import not_collecting
from tunewise.methods.base import Method
from tunewise.planning.layers import FEW, few_of
from tunewise.planning.process import held_by_process
from tunewise.planning.recorder import Computed
from tunewise.planning.shell import Shell
from tunewise.planning.stage import Stage
from tunewise.planning.step import Peaks, Taken
from tunewise.planning.trunk import TrunkPlan
from tunewise.planning.work import Memory, Work


@dataclass(frozen=True)
class Rehearsed:
    """What one step takes."""

    memory: Memory
    flops: dict[torch.dtype, int]
    """Floating-point operations of matrix products and attention, by precision."""
    bytes_moved: int
    n_operations: int
    peaks: Peaks = field(default_factory=dict)
    """The same memory in each part of the step; `memory` is that of the highest."""
    trunk_plan: TrunkPlan = field(default_factory=TrunkPlan)
    """Whether the step starts from what left the layers below everything trained."""
    trunk_pass: Computed = field(default_factory=Computed)
    """What it takes to have that of the rows of the step, once."""


def rehearse(shell: Shell, method: Method, work: Work, device_type: str = "cpu", *, whole: bool = False) -> Rehearsed:
    """One step of `work` with `method` on the base of this shell, the second one: the optimiser has its moments.

    `device_type` "cuda" has no kernels of ours but flash attention. `whole` runs every layer instead of a few alike.
    UserError where the method does not act on the base, or one of them cannot be run without numbers.
    """
    if work.seen is not None or device_type == "cpu":
        backend()  # measured now, where it was not yet: inside it would be by one thread, on tensors that hold nothing
    try:
        # what is multiplied is too small for several threads, which would only wait for one another; and a search in
        # the middle would move when tensors are freed
        with n_threads(1), not_collecting():
            stage = Stage(shell, method, work, device_type)
            if whole:
                taken = stage.step([number for layers in stage.runs for number in layers])
            else:
                taken = _extended(stage)
    except (RuntimeError, IndexError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(
            f"a step of {method.name} on {shell.name} cannot be rehearsed: {reason}",
            "a short run tells what it takes: tunewise train ... train.steps=2",
        ) from error
    peaks, computed, trunk_pass = taken.peaks, taken.computed, taken.trunk_pass
    if device_type == "cpu":
        n_bytes = max(computed.bytes_taken, trunk_pass.bytes_taken)
        for kinds in peaks.values():
            kinds["process"] = held_by_process(n_bytes, work.checkpointing)
    highest = max(peaks.values(), key=lambda kinds: sum(kinds.values()))
    return Rehearsed(
        Memory(**highest),
        computed.flops,
        computed.bytes_moved,
        computed.n_operations,
        peaks,
        stage.trunk_plan,
        trunk_pass,
    )


def _extended(stage: Stage) -> Taken:
    """Of the whole depth, from few layers of each run, and of one run at a time one more."""
    few = [few_of(layers) for layers in stage.runs]
    base = stage.step([number for layers in few for number in layers])
    peaks = {segment: dict(kinds) for segment, kinds in base.peaks.items()}
    total = replace(base, peaks=peaks, computed=base.computed.copy(), trunk_pass=base.trunk_pass.copy())
    for i, layers in enumerate(stage.runs):
        n_more = len(layers) - FEW
        if n_more <= 0:
            continue
        more = few_of(layers, FEW + 1)
        found = stage.step([number for each in (*few[:i], more, *few[i + 1 :]) for number in each])
        inside, new = few[i][1], more[2]
        for segment, kinds in found.peaks.items():
            alike = segment if segment in base.peaks else (segment[0], inside)
            if segment not in peaks:
                assert segment[1] == new, segment
                peaks[segment] = dict(base.peaks[alike])
            for kind in kinds:
                peaks[segment][kind] += n_more * (kinds[kind] - base.peaks[alike][kind])
        assert base.peaks.keys() <= found.peaks.keys()
        total.computed.grow(base.computed, found.computed, n_more)
        total.trunk_pass.grow(base.trunk_pass, found.trunk_pass, n_more)
    return total
