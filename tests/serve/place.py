"""A base with a chat template, and runs on it: trained on conversations, trained on reviews, and shown some reviews."""

from pathlib import Path

from tests.small_base import QUICK, write_reviews, write_talker
from tunewise.run import build_recipe, run

RUNS = {
    "lora": ({"name": "lora", "rank": 2}, "chats.jsonl"),
    "prompts": ({"name": "prompt_tuning", "virtual_tokens": 3}, "chats.jsonl"),
    "reviews": ({"name": "lora", "rank": 4}, "reviews.csv"),
    "shown": ({"name": "frozen", "shots": 2}, "reviews.csv"),
}


def write_runs(folder: Path, dtype: str = "float32") -> dict[str, Path]:
    """By name."""
    write_talker(folder / "base", folder / "chats.jsonl")
    write_reviews(folder / "reviews.csv")
    for name, (method, data) in RUNS.items():
        asked = {"model": str(folder / "base"), "data": str(folder / data), "retention": None, "dtype": dtype}
        run(build_recipe({**asked, "method": method}, QUICK), folder / name, prove=False)
    return {name: folder / name for name in RUNS}
