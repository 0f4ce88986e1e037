"""Versions of what computed something: written beside every adapter, run and merged base."""

from functools import cache
from importlib.metadata import version


@cache
def versions() -> dict[str, str]:
    """Package -> the installed version; looked up once, as each lookup parses the package's metadata."""
    return {name: version(name) for name in ("tunewise", "torch", "transformers")}
