"""What `tunewise adapter show` prints of a folder, and what it leaves to --json."""

import json
from pathlib import Path

from tests.cli.command import tunewise
from tunewise.config import read_yaml

CARD = {
    "peft_type": "LORA", "r": 8, "lora_dropout": 0.0, "revision": None, "use_dora": False, "rank_pattern": {},
    "target_modules": ["q_proj"], "loftq_config": {"bits": None, "steps": 0}, "notes": {"kind": "chat", "rows": None},
}  # fmt: skip


def test_what_is_said_is_shown_and_the_rest_is_counted(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(CARD))
    found = tunewise("adapter", "show", tmp_path)
    assert found.code == 0, found.err
    *lines, last = found.out.splitlines()
    (tmp_path / "shown.yaml").write_text("\n".join(lines))
    assert read_yaml(tmp_path / "shown.yaml") == {
        "peft_type": "LORA", "r": 8, "target_modules": ["q_proj"], "notes": {"kind": "chat"},
    }  # fmt: skip
    assert last == "7 more fields, which are null, false, 0 or empty: --json has them"
    assert json.loads(tunewise("adapter", "show", tmp_path, "--json").out) == CARD


def test_of_a_card_that_says_all_nothing_is_counted(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8}')
    assert tunewise("adapter", "show", tmp_path).out == "peft_type: LORA\nr: 8\n"
