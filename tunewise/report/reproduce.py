"""How to make the runs of a page again: commands, versions, seeds, and digests of base, data, recipes and adapters."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunewise.files import read_json
from tunewise.identity import digest_of_arm
from tunewise.report.arms import Arm
from tunewise.report.folders import Run


def command_of(run: Run) -> str:
    """The command that carries out this run's recipe again."""
    return f"tunewise train {shlex.quote(str(run.folder / 'recipe.yaml'))}"


def environment_of(runs: Sequence[Run]) -> dict[str, str]:
    """What all runs ran on; a value that differs between runs is shown as all its values."""
    values: dict[str, list[str]] = {}
    for run in runs:
        for name, value in _opened(run.environment).items():
            if str(value) not in values.setdefault(name, []):
                values[name].append(str(value))
    return {name.replace("_", " "): ", ".join(found) for name, found in values.items() if any(found)}


def digests_of(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Of each arm: its recipe's digest, seeds, a command, and the sha-256 of each adapter's tensors."""
    return [
        {
            "arm": arm,
            "recipe": digest_of_arm(arm.runs[0].recipe),
            "seeds": ", ".join(map(str, arm.seeds)),
            "command": command_of(arm.runs[0]),
            "adapters": [sha for run in arm.runs if (sha := _tensors_sha256(run.folder / "adapter"))],
        }
        for arm in arms
    ]


def _tensors_sha256(adapter: Path) -> str:
    """What the adapter's manifest says of its tensors; "" where there is none."""
    path = adapter / "manifest.json"
    manifest = read_json(path) if path.is_file() else {}
    entries = manifest if isinstance(manifest, dict) else {}
    return next((entry["sha256"] for name, entry in entries.items() if name.endswith("r_model.safetensors")), "")


def _opened(environment: Mapping[str, Any]) -> dict[str, str | int | float]:
    """env.json with what it says of the base as fields of their own."""
    found: dict[str, str | int | float] = {}
    for name, value in environment.items():
        if isinstance(value, Mapping):
            found |= {f"{name} {key}".replace(f"{name} name", name): text for key, text in value.items() if text}
        elif isinstance(value, str | int | float):
            found[name] = value
    return found
