"""What is kept on this machine from one run to the next: in which folder, and how much of it."""

import os
import shutil
from pathlib import Path

from tunewise.errors import UserError

SHARE = 0.25
"""Of free memory or free disk, for a cache whose cap is not set."""


def cache_folder() -> Path:
    """Where what was measured, built and read on this machine is kept: TUNEWISE_CACHE, or the user's cache folder.

    UserError where there can be no such folder.
    """
    named = os.environ.get("TUNEWISE_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(named) if named else base / "tunewise"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        told = f"cannot make the cache folder {folder}: {error.strerror}"
        raise UserError(told, "name one that can be written to: TUNEWISE_CACHE=FOLDER before the command") from None
    return folder


def keep_newest(kept: Path, most: int) -> None:
    """Of the folders beside `kept`, which is used now, leave so many: those that were used last."""
    os.utime(kept)
    found = sorted(kept.parent.iterdir(), key=lambda folder: folder.stat().st_mtime, reverse=True)
    for folder in found[most:]:
        shutil.rmtree(folder, ignore_errors=True)


def allowed_bytes(variable: str, n_free: int) -> int:
    """The cap on a cache in bytes: gigabytes that the environment's `variable` says, else a share of what is free."""
    told = os.environ.get(variable)
    if told is None:
        return int(SHARE * n_free)
    try:
        return int(float(told) * 1e9)
    except ValueError:
        raise UserError(f"{variable}={told!r} is no number of gigabytes", f"{variable}=2") from None
