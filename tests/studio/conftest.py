"""Runs to be asked in a studio."""

from pathlib import Path

import pytest

from tests.small_base import QUICK, write_place, write_talker
from tunewise.run import build_recipe, run


@pytest.fixture(scope="session")
def studio_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two arms below folder/runs, and a conversation's run in folder/chat."""
    folder = write_place(tmp_path_factory.mktemp("studio"))
    for arm, method in {"lora-1": {"name": "lora", "rank": 2}, "frozen-2": {"name": "frozen", "shots": 2}}.items():
        _run(folder / f"runs/task/{arm}/seed0", folder / "base", folder / "reviews.csv", method)
    write_talker(folder / "talker", folder / "chats.jsonl")
    _run(folder / "chat", folder / "talker", folder / "chats.jsonl", {"name": "lora", "rank": 2})
    return folder


def _run(out: Path, base: Path, data: Path, method: dict[str, object]) -> None:
    asked = {"model": str(base), "data": str(data), "method": method, "retention": None, "dtype": "float32"}
    run(build_recipe(asked, QUICK), out, prove=False)
