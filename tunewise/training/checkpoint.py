"""Checkpoints from which training goes on bit for bit: safetensors and json, one folder a checkpoint.

A checkpoint is written between two optimiser steps, never inside an accumulated one, so it holds no half-summed
gradients; `accumulated` in its state.json is the accumulation position and always 0. The order of the rows is a
function of (seed, epoch, index) and is not stored. The older checkpoint is removed only after the newer is complete.
A best state that is large lies in a folder of its own beside them, best-<step>, written when it was found.
"""

import random
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tunewise import files
from tunewise.errors import UserError

TENSORS = "state.safetensors"
STATE = "state.json"
FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """The state between two steps: tensors by name, and everything else as plain json values."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]


def save(folder: Path, step: int, checkpoint: Checkpoint) -> None:
    """Write `folder`/step-<step>, then remove the older ones; UserError when the disk refuses."""
    target = folder / f"step-{step:08d}"
    older = _found(folder)
    if target not in older:
        with files.folder(target) as temporary:
            _save_tensors(checkpoint.tensors, temporary / TENSORS)
            files.write_json(temporary / STATE, {"format": FORMAT, **checkpoint.state})
    for path in older:
        if path != target:
            shutil.rmtree(path, ignore_errors=True)
    for leftover in folder.glob(".*-*.tmp"):  # of a process that was killed while it wrote
        shutil.rmtree(leftover, ignore_errors=True)


def save_best(folder: Path, step: int, tensors: Mapping[str, Tensor]) -> None:
    """Write `folder`/best-<step>; UserError when the disk refuses."""
    with files.folder(_best(folder, step)) as temporary:
        _save_tensors(tensors, temporary / TENSORS)


def load_best(folder: Path, step: int) -> dict[str, Tensor]:
    """What `save_best` wrote at that step, mapped; UserError where it is damaged or not there."""
    path = _best(folder, step)
    try:
        files.verify(path)
    except UserError as error:
        raise UserError(error.message, f"remove {folder} to start over") from error
    return load_file(path / TENSORS)


def remove_bests(folder: Path, kept: Collection[int]) -> None:
    """Remove all best states but those of the steps `kept`."""
    for path in set(folder.glob("best-*")) - {_best(folder, step) for step in kept}:
        shutil.rmtree(path, ignore_errors=True)


def load(folder: Path) -> Checkpoint | None:
    """The newest complete checkpoint in `folder`, or None where there is none; UserError when all are damaged."""
    damage: UserError | None = None
    for path in reversed(_found(folder)):
        try:
            files.verify(path)
            state = files.read_json(path / STATE)
            if not isinstance(state, dict) or state.get("format") != FORMAT:
                raise UserError(f"{path} was written by another version", f"remove {folder} to start over")
            return Checkpoint(load_file(path / TENSORS), state)
        except UserError as error:
            damage = error
    if damage is not None:
        raise UserError(damage.message, f"remove {folder} to start over")
    return None


def remove(folder: Path) -> None:
    """Remove every checkpoint in `folder`, and the folder."""
    shutil.rmtree(folder, ignore_errors=True)


def random_state(device: torch.device) -> tuple[dict[str, Tensor], list[Any]]:
    """The states of torch's generators as tensors, and of Python's generator as json values."""
    tensors = {"random.cpu": torch.get_rng_state()}
    if device.type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(device)
    version, numbers, gauss = random.getstate()
    return tensors, [version, list(numbers), gauss]


def set_random_state(tensors: Mapping[str, Tensor], python: list[Any], device: torch.device) -> None:
    """Set what `random_state` returned."""
    torch.set_rng_state(tensors["random.cpu"])
    if device.type == "cuda" and "random.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random.cuda"], device)
    version, numbers, gauss = python
    random.setstate((version, tuple(numbers), gauss))


def _best(folder: Path, step: int) -> Path:
    return folder / f"best-{step:08d}"


def _found(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def _save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        raise OSError(str(error)) from error  # files.folder tells the user in its own words
