"""A rehearsal: one step of training on tensors that hold nothing, which tells the memory and the work of a real one.

The objective, the model with its method, the backward and the optimiser are those of a run; what they allocate, free
and multiply is recorded. Of many layers that are alike three and then four are run, and the rest follows.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch

from tunewise.errors import UserError
from tunewise.methods.base import Method
from tunewise.planning.layers import FEW, few_of
from tunewise.planning.process import held_by_process
from tunewise.planning.recorder import Computed
from tunewise.planning.shell import Shell
from tunewise.planning.stage import Stage
from tunewise.planning.step import Peaks
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


def rehearse(shell: Shell, method: Method, work: Work, device_type: str = "cpu", *, whole: bool = False) -> Rehearsed:
    """One step of `work` with `method` on the base of this shell, the second one: the optimiser has its moments.

    `device_type` "cuda" has no kernels of ours but flash attention. `whole` runs every layer instead of a few alike.
    UserError where the method does not act on the base, or one of them cannot be run without numbers.
    """
    try:
        with _one_thread():
            stage = Stage(shell, method, work, device_type)
            if whole:
                peaks, computed = stage.step([number for layers in stage.runs for number in layers])
            else:
                peaks, computed = _extended(stage)
    except (RuntimeError, IndexError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(
            f"a step of {method.name} on {shell.name} cannot be rehearsed: {reason}",
            "a short run tells what it takes: tunewise train ... train.steps=2",
        ) from error
    if device_type == "cpu":
        for kinds in peaks.values():
            kinds["process"] = held_by_process(computed.bytes_taken, work.checkpointing)
    highest = max(peaks.values(), key=lambda kinds: sum(kinds.values()))
    return Rehearsed(Memory(**highest), computed.flops, computed.bytes_moved, computed.n_operations, peaks)


@contextmanager
def _one_thread() -> Iterator[None]:
    """What is multiplied in a rehearsal is too small for several threads, which would only wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _extended(stage: Stage) -> tuple[Peaks, Computed]:
    """Of the whole depth, from few layers of each run, and of one run at a time one more."""
    few = [few_of(layers) for layers in stage.runs]
    base, computed = stage.step([number for layers in few for number in layers])
    peaks = {segment: dict(kinds) for segment, kinds in base.items()}
    total = replace(computed, flops=dict(computed.flops))
    for i, layers in enumerate(stage.runs):
        n_more = len(layers) - FEW
        if n_more <= 0:
            continue
        more = few_of(layers, FEW + 1)
        found, also = stage.step([number for each in (*few[:i], more, *few[i + 1 :]) for number in each])
        inside, new = few[i][1], more[2]
        for segment, kinds in found.items():
            alike = segment if segment in base else (segment[0], inside)
            if segment not in peaks:
                assert segment[1] == new, segment
                peaks[segment] = dict(base[alike])
            for kind in kinds:
                peaks[segment][kind] += n_more * (kinds[kind] - base[alike][kind])
        assert base.keys() <= found.keys()
        total.bytes_moved += n_more * (also.bytes_moved - computed.bytes_moved)
        total.bytes_taken += n_more * (also.bytes_taken - computed.bytes_taken)
        total.n_operations += n_more * (also.n_operations - computed.n_operations)
        for dtype, n in also.flops.items():
            total.flops[dtype] = total.flops.get(dtype, 0) + n_more * (n - computed.flops.get(dtype, 0))
    return peaks, total
