"""Runs to be asked in a studio."""

from pathlib import Path

import pytest

from tests.bytes_tokenizer import bytes_tokenizer
from tests.run.test_showcase import TURNS
from tests.small_base import QUICK, write_base, write_place
from tunewise.files import write_jsonl
from tunewise.run import build_recipe, run


@pytest.fixture(scope="session")
def studio_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two arms below folder/runs, and a conversation's run in folder/chat."""
    folder = write_place(tmp_path_factory.mktemp("studio"))
    for arm, method in {"lora-1": {"name": "lora", "rank": 2}, "frozen-2": {"name": "frozen", "shots": 2}}.items():
        _run(folder / f"runs/task/{arm}/seed0", folder / "base", folder / "reviews.csv", method)
    tokenizer = bytes_tokenizer()
    tokenizer.chat_template = TURNS
    write_base(folder / "talker", seed=3)
    tokenizer.save_pretrained(folder / "talker")
    turns = [
        [{"role": "user", "content": f"say {i}"}, {"role": "assistant", "content": f"boat {i}"}] for i in range(40)
    ]
    write_jsonl(folder / "chats.jsonl", [{"messages": messages} for messages in turns])
    _run(folder / "chat", folder / "talker", folder / "chats.jsonl", {"name": "lora", "rank": 2})
    return folder


def _run(out: Path, base: Path, data: Path, method: dict[str, object]) -> None:
    asked = {"model": str(base), "data": str(data), "method": method, "retention": None, "dtype": "float32"}
    run(build_recipe(asked, QUICK), out, prove=False)
