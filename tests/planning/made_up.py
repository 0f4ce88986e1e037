"""A device and rehearsals made up by a formula, so that every figure of a plan can be worked out by hand."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch

from tunewise.errors import UserError
from tunewise.methods import METHODS
from tunewise.methods.base import Method
from tunewise.planning import rehearsals
from tunewise.planning.devices import Device
from tunewise.planning.rehearsal import Rehearsed
from tunewise.planning.rehearsals import Rehearsals
from tunewise.planning.shell import Shell, shell_of
from tunewise.planning.work import Memory, Work

MB = 10**6
A_TOKEN = 50_000
"""Bytes of activations."""
A_PAIR = 10
"""Bytes for each pair of tokens in a row."""


def weights_of(work: Work) -> int:
    if not work.quantise:
        return 100 * MB
    return 100 * MB // (8 if work.quantise.endswith("-ends8") else 4)


def made_up(shell: Shell, method: Method, work: Work, device_type: str = "cpu") -> Rehearsed:
    """100 MB of weights, 1 MB trained for each rank; a second part of the step without rows is high in memory too."""
    is_full = isinstance(method, METHODS["full"])
    if is_full and work.quantise:
        raise UserError("full trains weights that are codes")
    trained = 100 * MB if is_full else 1 * MB * int(str(method.model_dump().get("rank", 1)))
    n = work.rows * work.tokens
    activations = n * A_TOKEN // (10 if work.checkpointing else 1) + work.rows * work.tokens**2 * A_PAIR
    told = dict.fromkeys(Memory.__dataclass_fields__, 0)
    fixed = {
        **told,
        "weights": weights_of(work),
        "gradients": trained,
        "optimiser": 2 * trained // (4 if "8bit" in work.optimiser else 1),
    }
    peaks = {
        ("backward", 0): {**fixed, "activations": activations, "logits": work.rows * work.labels * 1000},
        ("update", 0): {**fixed, "workspace": 3 * MB},
    }
    highest = max(peaks.values(), key=lambda kinds: sum(kinds.values()))
    flops = n * 10**9 * (4 if work.checkpointing else 3)
    return Rehearsed(Memory(**highest), {torch.bfloat16: flops}, 10 * n, 1000 * (2 if work.quantise else 1), peaks)


def device(memory_bytes: int, *, is_fast: bool = True) -> Device:
    """10 TFLOP/s, 100 GB/s and 0.1 µs an operation; or memory alone."""
    if not is_fast:
        return Device("card", "cuda", memory_bytes)
    return Device("card", "cuda", memory_bytes, {torch.bfloat16: 1e13, torch.float32: 1e12}, 1e11, 1e-7)


@contextmanager
def made_up_rehearsals(memory_bytes: int, *, is_fast: bool = True) -> Iterator[tuple[Rehearsals, list[Work]]]:
    """Rehearsals that come from the formula, and the works that were asked for."""
    asked: list[Work] = []

    def counted(shell: Shell, method: Method, work: Work, device_type: str = "cpu") -> Rehearsed:
        asked.append(work)
        return made_up(shell, method, work, device_type)

    with patch.object(rehearsals, "rehearse", counted):
        yield Rehearsals(shell_of("tiny"), device(memory_bytes, is_fast=is_fast)), asked
