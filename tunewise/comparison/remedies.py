"""What helps against forgetting: one method as it is, at a lower rank, with replay, in a mixture of tasks, and turned
down by the dial, beside each other.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunewise import files
from tunewise.comparison.following import GridWatcher
from tunewise.comparison.grid import compare
from tunewise.comparison.tables import interval
from tunewise.data.in_memory import Data, data_fields
from tunewise.errors import UserError
from tunewise.methods import parse_method
from tunewise.run import Recipe, build_recipe
from tunewise.run.dial import DIAL

REMEDIES = "remedies.json"
AS_IT_IS, DIALLED = "as it is", "as it is, dialled"
SMALLER = 4
"""A lower rank is the method's own, divided by this."""
SIZES = ("rank", "bottleneck", "virtual_tokens")
"""Fields by which methods say how much they can change; the first that a method has is made smaller."""
REPLAYED, MIXED = 0.1, 0.3
"""The shares of all training rows that replayed texts, and the rows of the other tasks together, make up."""


def remedies(
    data: Data,
    *,
    recipe: Mapping[str, Any] | None = None,
    replay: str | None = None,
    mixture: Sequence[str] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    points: int = 11,
    out: str | Path = "runs/remedies",
    progress: GridWatcher | None = None,
) -> dict[str, Any]:
    """`tunewise remedies`: the content of remedies.json, one row a remedy and the reasons for those left out.

    `recipe` has everything else of a recipe (model, method, train, retention, ...). `replay` is a source of general
    text, `mixture` names other tasks; of `tiny` the embedded ones are taken where none are given. A row has the main
    metric on test and the forgetting, each with its interval over the seeds. UserError where nothing shows forgetting.
    """
    data = data_fields(data)
    fields = {"model": "tiny", "method": "lora", **(recipe or {}), "data": data}
    checked = build_recipe(fields)
    if not checked.retention_suite:
        raise UserError("nothing tells what is forgotten", "name held-out text: retention=FILE")
    arms, left_out = arms_of(checked, replay, mixture, points)
    root = Path(out)
    unlike = {"allow_unlike": ["data.replay"]}
    found = compare(data, model=checked.model, methods=arms, seeds=seeds, out=root, overrides=unlike, progress=progress)
    first = found["arms"][0]
    folders = [root / first["folder"] / f"seed{seed}" for seed in first["seeds"]]
    rows = [_row(row["arm"], found["verdict"]["metric"], row) for row in found["rows"]]
    if folders:
        rows.insert(1, _dialled(folders))
    content = {"metric": found["verdict"]["metric"], "rows": rows, "left_out": left_out}
    files.write_json(root / REMEDIES, content)
    return content


def arms_of(
    recipe: Recipe, replay: str | None, mixture: Sequence[str] | None, points: int
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """(label -> the recipe fields of each arm, remedy -> why it is left out)."""
    plain = recipe.model_dump(mode="json", exclude={"model", "seed"})
    arms = {AS_IT_IS: {**plain, "dial": {**plain["dial"], "points": points}}}
    left_out: dict[str, str] = {}
    method = recipe.method.configuration()
    size = next((name for name in SIZES if isinstance(method.get(name), int)), None)
    if size is None or method[size] == 1:
        left_out["lower rank"] = f"{method['name']} has no {' or '.join(SIZES)} to make smaller"
    else:
        arms[f"{size} {_smaller(method, size)[size]}"] = {**plain, "method": _smaller(method, size)}
    known = recipe.model == "tiny" and recipe.retention == "auto"
    tasks = [asked.data.path for asked in recipe.retention_suite] if known else []
    replay = replay or next(iter(tasks), None)
    others = list(tasks[1:]) if mixture is None else list(mixture)
    if replay is None:
        left_out["replay"] = "no source of general text is named"
    else:
        arms[f"{REPLAYED:.0%} replayed"] = {**plain, "data": _with_rows(recipe, [(replay, REPLAYED)])}
    if not others:
        left_out["mixture"] = "no other tasks are named"
    else:
        shares = [(task, MIXED / len(others)) for task in others]
        arms[f"{MIXED:.0%} of other tasks"] = {**plain, "data": _with_rows(recipe, shares)}
    return arms, left_out


def _smaller(method: Mapping[str, Any], size: str) -> dict[str, Any]:
    """The method with less of `size`; of a rank its alpha falls with it, so that alpha / rank stays."""
    n = max(1, method[size] // SMALLER)
    alpha = method.get("alpha") if size == "rank" else None
    scaled = {"alpha": alpha * n / method[size]} if isinstance(alpha, int | float) else {}
    return parse_method({**method, size: n, **scaled}).configuration()


def _with_rows(recipe: Recipe, shares: Sequence[tuple[str, float]]) -> dict[str, Any]:
    replay = [{"path": path, "share": share} for path, share in shares]
    return {**recipe.data.model_dump(mode="json"), "replay": replay}


def _row(label: str, metric: str, row: Mapping[str, Any]) -> dict[str, Any]:
    return {"arm": label, "test": row["test"].get(metric), "forgetting": row["forgetting"], "scale": 1.0}


def _dialled(folders: Sequence[Path]) -> dict[str, Any]:
    """The first arm at the λ that each of its seeds took on dev."""
    scores, changes, scales = [], [], []
    for folder in folders:
        dial = files.read_json(folder / DIAL)
        assert isinstance(dial, dict), folder
        knee = next(point for point in dial["points"] if point["scale"] == dial["knee"])
        scores.append(knee["test"])
        scales.append(knee["scale"])
        if knee["retention"] is not None:
            changes.append(knee["retention"] - dial["points"][0]["retention"])
    forgetting = interval(changes) if changes else None
    return {"arm": DIALLED, "test": interval(scores), "forgetting": forgetting, "scale": sum(scales) / len(scales)}
