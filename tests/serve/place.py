"""A base with a chat template, and runs on it: trained on conversations, trained on reviews, and shown some reviews."""

from pathlib import Path

from tests.bytes_tokenizer import bytes_tokenizer
from tests.small_base import QUICK, write_base, write_reviews
from tunewise.files import write_jsonl
from tunewise.run import build_recipe, run

TURNS = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
)
RUNS = {
    "lora": ({"name": "lora", "rank": 2}, "chats.jsonl"),
    "prompts": ({"name": "prompt_tuning", "virtual_tokens": 3}, "chats.jsonl"),
    "reviews": ({"name": "lora", "rank": 4}, "reviews.csv"),
    "shown": ({"name": "frozen", "shots": 2}, "reviews.csv"),
}


def write_runs(folder: Path, dtype: str = "float32") -> dict[str, Path]:
    """By name."""
    tokenizer = bytes_tokenizer()
    tokenizer.chat_template = TURNS
    write_base(folder / "base", seed=3)
    tokenizer.save_pretrained(folder / "base")
    turns = [
        [{"role": "user", "content": f"say {i}"}, {"role": "assistant", "content": f"boat {i}"}] for i in range(40)
    ]
    write_jsonl(folder / "chats.jsonl", [{"messages": messages} for messages in turns])
    write_reviews(folder / "reviews.csv")
    for name, (method, data) in RUNS.items():
        asked = {"model": str(folder / "base"), "data": str(folder / data), "retention": None, "dtype": dtype}
        run(build_recipe({**asked, "method": method}, QUICK), folder / name, prove=False)
    return {name: folder / name for name in RUNS}
