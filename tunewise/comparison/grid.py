"""Arms × seeds on one base and one task, each a run folder; the base is loaded once, reloads are proved in one process.

An arm is what differs from the others: a method, with its own training fields where it wants them. Everything else is
the same for all, so every arm has the same rows, steps and evaluation. Seeds run innermost last: after the first round
every arm has been seen once.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tunewise import files
from tunewise.comparison.tables import rows_of, verdict_of
from tunewise.comparison.workers import run_side_by_side
from tunewise.errors import UserError
from tunewise.methods.base import Method
from tunewise.models.load import Base
from tunewise.run import Recipe, add_reload_proof, base_of, build_recipe, plan, run, run_folder, run_together
from tunewise.run.record import DONE
from tunewise.training.progress import Watcher

logger = logging.getLogger(__name__)

COMPARISON = "comparison.json"
METHODS = ("frozen", "lora", "bitfit", "full")
Arms = Sequence[str | Mapping[str, Any] | Method] | Mapping[str, Mapping[str, Any]]


class GridWatcher(Watcher, Protocol):
    """Whoever wants to follow a comparison, run by run and step by step."""

    def begins(self, label: str) -> None:
        """The run `label` (arm and seed) starts."""

    def ends(self, told: str) -> None:
        """The run that started last is done; `told` is its result in a few words."""


def compare(
    data: str | Mapping[str, Any],
    *,
    model: str = "tiny",
    methods: Arms = METHODS,
    seeds: Sequence[int] = (0, 1, 2),
    out: str | Path = "runs",
    overrides: Mapping[str, Any] | None = None,
    workers: int = 1,
    progress: GridWatcher | None = None,
) -> dict[str, Any]:
    """`tunewise compare`: every method with every seed, into out/<task>/<method>-<hash>/seed<k>, and comparison.json.

    `methods` is a list of names or of mappings (name and fields), or a mapping from an arm's label to the recipe
    fields of its own: {"lora r=4": {"method": {"name": "lora", "rank": 4}, "train": {"learning_rate": 2e-3}}}.
    `overrides` are dotted fields for all arms; `workers` processes run side by side. Runs that are done are not carried
    out again. Returns the content of comparison.json: one row an arm, with means and 95 % intervals,
    and the verdict over them with a test of each pair.
    """
    if not seeds:
        raise UserError("no seeds given", "give at least one, better three: --seeds 0,1,2")
    common = {"model": model, "data": data}
    recipes = {
        label: [build_recipe({**common, **fields, "seed": seed}, overrides) for seed in seeds]
        for label, fields in arms_of(methods).items()
    }
    bases = {(recipe.model, recipe.dtype, recipe.quantise) for of_arm in recipes.values() for recipe in of_arm}
    if len(bases) > 1:
        told = "; ".join(" ".join(filter(None, base)) for base in sorted(bases))
        raise UserError(f"the arms stand on {len(bases)} bases: {told}", "compare what stands on one base")
    root = Path(out)
    folders = {label: [run_folder(recipe, root) for recipe in of_arm] for label, of_arm in recipes.items()}
    carry_out(recipes, folders, workers, progress)
    arms = [
        {"label": label, "folder": of_arm[0].parent.relative_to(root).as_posix(), "seeds": list(seeds)}
        for label, of_arm in folders.items()
    ]
    first = next(iter(recipes.values()))[0]
    content = {
        "model": first.model,
        "data": first.data.model_dump(mode="json"),
        "arms": arms,
        "verdict": verdict_of(folders),
        "rows": rows_of({label: [folder / "metrics.json" for folder in of_arm] for label, of_arm in folders.items()}),
    }
    files.write_json(root / COMPARISON, content)
    return content


def arms_of(methods: Arms) -> dict[str, Mapping[str, Any]]:
    """Label -> recipe fields of each arm; UserError for none, and for two that would have the same label."""
    if isinstance(methods, Mapping):
        arms = {str(label): fields for label, fields in methods.items()}
    else:
        arms = {}
        for method in methods:
            fields = method.configuration() if isinstance(method, Method) else method
            label = fields if isinstance(fields, str) else _label(fields)
            if label in arms:
                raise UserError(f"the method {label} is there twice", "leave one out, or change a field of it")
            arms[label] = {"method": fields}
    if not arms:
        raise UserError("no methods given", "name at least one: --methods lora,bitfit")
    return arms


def carry_out(
    recipes: Mapping[str, Sequence[Recipe]],
    folders: Mapping[str, Sequence[Path]],
    workers: int = 1,
    progress: GridWatcher | None = None,
) -> None:
    """Every run, all arms of one seed before the next seed, but for those that share batches with a later one; then
    the reloads of all adapters in one fresh process."""
    n_seeds = max(map(len, recipes.values()))
    jobs = [(label, number) for number in range(n_seeds) for label in recipes]
    labels = [f"{label} seed {recipes[label][number].seed}" for label, number in jobs]
    in_order = [recipes[label][number] for label, number in jobs]
    places = [folders[label][number] for label, number in jobs]
    if workers > 1:
        for number, metrics in run_side_by_side(in_order, places, workers):
            if progress is not None:
                progress.begins(labels[number])
                progress.ends(_in_words(metrics))
    bases: dict[str, Base] = {}
    if workers == 1:
        for group in _groups(in_order, places, bases):
            if progress is not None:
                progress.begins(labels[group[0]])
            recipes_of, places_of = [in_order[number] for number in group], [places[number] for number in group]
            base = base_of(recipes_of[0], bases)
            if len(group) > 1:
                found = run_together(recipes_of, places_of, base, progress)
            else:
                found = [run(recipes_of[0], places_of[0], base=base, progress=progress, prove=False)]
            for number, metrics in zip(group, found, strict=True):
                if progress is not None:
                    if number != group[0]:
                        progress.begins(labels[number])
                    progress.ends(_in_words(metrics))
    add_reload_proof(places, base_of(in_order[0], bases))


def _groups(recipes: Sequence[Recipe], places: Sequence[Path], bases: dict[str, Base]) -> list[tuple[int, ...]]:
    """The numbers of all runs, in their order; those that are to be carried out side by side stand together."""
    left = [number for number, place in enumerate(places) if not (place / DONE).is_file()]
    together: dict[int, tuple[int, ...]] = {}
    for head in dict.fromkeys(recipes[number].head for number in left):
        of_head = [number for number in left if recipes[number].head == head]
        found = plan([recipes[number] for number in of_head], base_of(recipes[of_head[0]], bases))
        groups = [tuple(of_head[index] for index in group) for group in found.groups]
        together |= {number: group for group in groups for number in group}
        for reason in dict.fromkeys(found.reasons.values()):
            logger.info("%d runs: %s", list(found.reasons.values()).count(reason), reason)
    return list(dict.fromkeys(together.get(number, (number,)) for number in range(len(recipes))))


def _in_words(metrics: Mapping[str, Any]) -> str:
    """The first test metric and the time of a run, as in "accuracy 90.3  12.1 s"."""
    name, value = next(iter(metrics["test"].items()))
    return f"{name} {value:.4f}" if name == "loss" else f"{name} {value:.1f}  {metrics['seconds']:.1f} s"


def _label(fields: Mapping[str, Any]) -> str:
    rest = ", ".join(f"{name}={value}" for name, value in fields.items() if name != "name")
    return f"{fields.get('name')} ({rest})" if rest else str(fields.get("name"))
