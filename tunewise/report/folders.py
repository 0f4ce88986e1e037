"""Run folders -> plain values. Only folders that hold DONE count: that marker is written last."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from tunewise.config import read_yaml
from tunewise.errors import UserError
from tunewise.files import read_json, read_jsonl


@dataclass(frozen=True)
class Run:
    """One finished run: what was asked (recipe), where (environment), what came out (metrics, log, predictions)."""

    folder: Path
    recipe: dict[str, Any]
    metrics: dict[str, Any]
    environment: dict[str, Any]
    log: tuple[dict[str, Any], ...]

    @property
    def arm_folder(self) -> str:
        """The name of the folder above, shared by the seeds of one arm."""
        return self.folder.parent.name

    @property
    def asked(self) -> str:
        """Its recipe without the seed, which runs of one arm share wherever they lie."""
        return json.dumps({name: value for name, value in self.recipe.items() if name != "seed"}, sort_keys=True)

    @property
    def method(self) -> dict[str, Any]:
        """The method's name and fields, as the recipe gives them."""
        method = self.recipe.get("method", {})
        return {"name": method} if isinstance(method, str) else dict(method)

    @property
    def data_path(self) -> str:
        """What its recipe names as data."""
        data = self.recipe.get("data")
        return str(data.get("path") if isinstance(data, dict) else data)

    @property
    def made_of(self) -> dict[tuple[str, str], str]:
        """What it was made of, as (what it is called, what was asked of it) -> the digest that was taken of it then;
        of a quantised base none, which machines may round unlike."""
        base, asked = self.environment.get("base") or {}, self.recipe
        reads = {name: asked.get(name) for name in ("data", "out_of_domain", "retention", "adapter")}
        digests = {(self.data_path, json.dumps(reads, sort_keys=True)): self.environment.get("data_sha256")}
        if not base.get("quantise"):
            model = str(asked.get("model"))
            digests[model, f"{model} {asked.get('head')}"] = base.get("fingerprint")
        return {of: digest for of, digest in digests.items() if digest}

    def proofs(self) -> dict[str, dict[str, Any]]:
        return self.metrics.get("proofs") or {}

    def predictions(self) -> list[dict[str, Any]]:
        path = self.folder / "predictions.jsonl"
        return _rows(path) if path.is_file() else []


def read_run(folder: Path) -> Run:
    """One run folder; UserError when it is missing, unfinished or damaged."""
    if not (folder / "DONE").is_file():
        raise UserError(
            f"{folder} holds no finished run: it has no DONE",
            "run the command that made it again; a finished run is skipped, an unfinished one goes on",
        )
    log = folder / "log.jsonl"
    environment = folder / "env.json"
    return Run(
        folder,
        read_yaml(folder / "recipe.yaml"),
        _mapping(folder / "metrics.json"),
        _mapping(environment) if environment.is_file() else {},
        tuple(_rows(log)) if log.is_file() else (),
    )


def read_runs(root: Path) -> list[Run]:
    """Every finished run below `root`, in the order of their paths; UserError when there is none."""
    if not root.is_dir():
        raise UserError(f"no such folder: {root}", "give a run folder, or a folder of run folders such as runs/")
    runs = [read_run(marker.parent) for marker in sorted(root.rglob("DONE"))]
    if not runs:
        begun = sorted(path.parent for path in root.rglob("recipe.yaml"))
        hint = "make one first: tunewise train --data tiny:sentiment --method lora"
        if begun:
            again = f"tunewise train {quote(str(begun[0] / 'recipe.yaml'))} --out {quote(str(begun[0]))}"
            hint = f"{begun[0]} was begun, and goes on by {again}"
        raise UserError(f"no finished run in {root}", hint)
    return runs


def majority_score(predictions: Sequence[dict[str, Any]]) -> float | None:
    """What always giving the most frequent expected answer would score, 0 to 100.

    None without predictions, and for choices: each row has its own, and their letters say nothing.
    """
    expected = Counter(row["expected"] for row in predictions if "expected" in row and "choices" not in row)
    return 100 * max(expected.values()) / expected.total() if expected else None


def _mapping(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged: it holds no object", "run the command that made the folder again")
    return value


def _rows(path: Path) -> list[dict[str, Any]]:
    return [row for row in read_jsonl(path) if isinstance(row, dict)]
