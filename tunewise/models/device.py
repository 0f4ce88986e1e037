"""The device a base is loaded to: the GPU where torch finds one, or what TUNEWISE_DEVICE says."""

import os

import torch

from tunewise.errors import UserError

VARIABLE = "TUNEWISE_DEVICE"


def choose_device(name: str = "") -> torch.device:
    """The device of that name ("cpu", "cuda", "cuda:1"); without one that of TUNEWISE_DEVICE, else a GPU, else the CPU.

    UserError for a name that is none, and for a GPU that is not there.
    """
    told = name or os.environ.get(VARIABLE) or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(told)
    except RuntimeError as error:
        raise UserError(f"{told!r} is no device", f"{VARIABLE}=cuda, or cpu") from error
    n_gpus = torch.cuda.device_count() if device.type == "cuda" else 0
    if device.type == "cuda" and not (device.index or 0) < n_gpus:
        raise UserError(f"there is no device {told}: torch finds {n_gpus or 'no'} GPUs here", f"{VARIABLE}=cpu")
    return device


def why_chosen() -> str:
    """The device of runs where nothing else is said, and why, for people."""
    device, says = choose_device(), f"as {VARIABLE} says"
    return f"{device}, {says if os.environ.get(VARIABLE) else 'as torch finds ' + _found(device)}"


def _found(device: torch.device) -> str:
    return "no GPU" if device.type == "cpu" else f"a GPU ({VARIABLE}=cpu takes the CPU)"
