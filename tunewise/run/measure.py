"""Evaluating what is there already: a finished run, an adapter, or a bare base."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewise import files
from tunewise.config import parse, read_yaml
from tunewise.data.config import DataConfig
from tunewise.errors import UserError, missing, no_adapter_yet, unknown
from tunewise.evaluation.evaluate import Asking, evaluate_task
from tunewise.methods.selective.frozen import Frozen
from tunewise.methods.store import load_adapter, read_card
from tunewise.models.heads import HeadChoice
from tunewise.run.prepare import load_for
from tunewise.run.recipe import Recipe, build_recipe
from tunewise.run.record import ADAPTER, PREDICTIONS, RECIPE


def evaluate(
    target: str | Path | None = None,
    *,
    model: str | None = None,
    data: str | Mapping[str, Any] | None = None,
    split: str = "test",
    shots: int = 0,
    seed: int = 0,
    limit: int | None = None,
    out: str | Path | None = None,
) -> dict[str, Any]:
    """`tunewise eval`: a run folder, an adapter folder, or with `model` alone a base, on one split of a task.

    A run is measured as it measured itself (its data, demonstrations and seed) unless told otherwise. With `out`,
    predictions.jsonl and evaluation.json are written there.
    """
    asked = _asked(None if target is None else Path(target), model, data)
    base, task = load_for(asked.data, asked.model, asked.dtype, asked.head, asked.quantise)
    splits = {"train": task.train, "dev": task.dev, "test": task.test}
    if split not in splits:
        raise unknown("split", split, splits)
    prefix_ids: tuple[int, ...] = ()
    if asked.adapter is not None:
        tuned = load_adapter(base.model, asked.adapter, tokenizer=base.tokenizer)
        tuned.model.eval()
        prefix_ids = tuned.prefix_ids
    shots, seed = (shots, seed) if shots else (asked.shots, asked.seed)
    examples = splits[split][:limit]
    asking = Asking(packing=asked.packing)
    found = evaluate_task(base, task, examples, prefix_ids=prefix_ids, shots=shots, seed=seed, asking=asking)
    summary = {
        "task": task.name,
        "model": asked.model,
        "adapter": None if asked.adapter is None else str(asked.adapter),
        "split": split,
        "shots": shots,
        "seed": seed,
        "n_examples": len(examples),
        "n_dropped_demonstrations": found.n_dropped,
        "n_truncated_prompts": found.n_truncated,
        "metrics": found.metrics,
    }
    if out is not None:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found.predictions)
        files.write_text(Path(out) / PREDICTIONS, lines)
        files.write_json(Path(out) / "evaluation.json", summary)
    return summary


@dataclass(frozen=True)
class _Asked:
    """What is to be evaluated on what."""

    model: str
    dtype: str
    data: DataConfig
    adapter: Path | None
    head: HeadChoice = "auto"
    shots: int = 0
    seed: int = 0
    quantise: str = ""
    packing: bool = True


def _asked(target: Path | None, model: str | None, data: str | Mapping[str, Any] | None) -> _Asked:
    """A run folder, an adapter folder, or a bare base, as one thing; UserError where something is missing."""
    given = None if data is None else build_recipe({"data": data, "method": "frozen"}).data
    if target is not None and (target / RECIPE).is_file():
        recipe = parse(Recipe, read_yaml(target / RECIPE), where=str(target / RECIPE))
        adapter = target / ADAPTER if (target / ADAPTER).is_dir() else None
        if adapter is None and not isinstance(recipe.method, Frozen):
            raise no_adapter_yet(target)
        name, data_config, seed = model or recipe.model, given or recipe.data, recipe.seed
        head, quantise, packing = recipe.head, recipe.quantise, recipe.train.packing
        return _Asked(name, recipe.dtype, data_config, adapter, head, recipe.shots, seed, quantise, packing)
    if target is None:
        if model is None or given is None:
            raise UserError(
                "nothing to evaluate", "give a run or adapter folder, or --model tiny --data tiny:sentiment"
            )
        return _Asked(model, "auto", given, None)
    if not target.is_dir():
        raise missing(target)
    card = read_card(target) if (target / "tunewise.json").is_file() else {"base": {}, "notes": {}}
    name = model or card["base"].get("name")
    noted = card["notes"].get("data")
    if not name or not (given or noted):
        wanted = "--model NAME_OR_FOLDER" if not name else "--data FILE"
        raise UserError(f"{target} does not say which {'base' if not name else 'data'} it belongs to", f"add {wanted}")
    head, quantise = card["notes"].get("head", "auto"), card["base"].get("quantise", "")
    return _Asked(name, card.get("dtype", "auto"), given or parse(DataConfig, noted), target, head, quantise=quantise)
