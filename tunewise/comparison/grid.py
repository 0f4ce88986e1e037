"""Arms × seeds on one base and one task, each a run folder; the base is loaded once, reloads are proved in one process.

An arm is what differs from the others: a method, with its own training fields where it wants them. Everything else is
the same for all, so every arm has the same rows, steps and evaluation. Seeds run innermost last: after the first round
every arm has been seen once.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tunewise import files
from tunewise.comparison.outcome import Outcome, failures, in_words, run_group
from tunewise.comparison.tables import rows_of, verdict_of
from tunewise.comparison.workers import run_side_by_side
from tunewise.errors import UserError
from tunewise.methods.base import Method
from tunewise.models.load import Base
from tunewise.run import Recipe, add_reload_proof, base_of, build_recipe, plan, run_folder
from tunewise.run.record import DONE
from tunewise.training.lane import Diverged
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
    out again. Returns the content of comparison.json: one row an arm, with means and 95 % intervals over the seeds that
    were trained to their end, and the verdict over them with a test of each pair. Runs that diverged stand under
    `failed` of their arm, with the reason, and begin anew with the same call. UserError where all of them did.
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
    outcomes = carry_out(recipes, folders, workers, progress)
    arms: list[dict[str, Any]] = []
    for label, of_arm in folders.items():
        failed = failures(seeds, outcomes[label])
        finished = [seed for seed in seeds if seed not in [each["seed"] for each in failed]]
        arm = {"label": label, "folder": of_arm[0].parent.relative_to(root).as_posix()}
        arms.append({**arm, "seeds": finished, "failed": failed})
    first = next(iter(recipes.values()))[0]
    content = {
        "model": first.model,
        "data": first.data.model_dump(mode="json"),
        "out_of_domain": {name: each.path for name, each in first.out_of_domain.items()},
        "arms": arms,
        "verdict": verdict_of(_places(_reliable(arms), root)),
        "rows": rows_of(_places(arms, root)),
    }
    files.write_json(root / COMPARISON, content)
    if not any(arm["seeds"] for arm in arms):
        lost = arms[0]["failed"][0]
        raise UserError(f"every run diverged; {arms[0]['label']} seed {lost['seed']}: {lost['reason']}", lost["hint"])
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


def _reliable(arms: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Those of which no seed diverged, or, where there is none, those with any result."""
    return [arm for arm in arms if not arm["failed"]] or [arm for arm in arms if arm["seeds"]]


def _places(arms: Sequence[Mapping[str, Any]], root: Path) -> dict[str, list[Path]]:
    """Label -> the folders of its finished runs."""
    return {arm["label"]: [root / arm["folder"] / f"seed{seed}" for seed in arm["seeds"]] for arm in arms}


def carry_out(
    recipes: Mapping[str, Sequence[Recipe]],
    folders: Mapping[str, Sequence[Path]],
    workers: int = 1,
    progress: GridWatcher | None = None,
) -> dict[str, list[Outcome]]:
    """Every run, all arms of one seed before the next seed, but for those that share batches with a later one; then
    the reloads of all adapters in one fresh process. What came of the runs of each arm."""
    n_seeds = max(map(len, recipes.values()))
    jobs = [(label, number) for number in range(n_seeds) for label in recipes]
    in_order = [recipes[label][number] for label, number in jobs]
    places = [folders[label][number] for label, number in jobs]
    names = [f"{label} seed {recipe.seed}" for (label, _), recipe in zip(jobs, in_order, strict=True)]
    bases: dict[str, Base] = {}
    groups = _groups(in_order, places, bases, workers)
    found: dict[int, Outcome] = {}
    for group, outcomes in _carried_out(groups, names, in_order, places, bases, workers, progress):
        for number, outcome in zip(group, outcomes, strict=True):
            found[number] = outcome
            if progress is not None:
                if workers > 1 or number != group[0]:
                    progress.begins(names[number])
                progress.ends(in_words(outcome))
    done = [places[number] for number in range(len(jobs)) if not isinstance(found[number], Diverged)]
    add_reload_proof(done, base_of(in_order[0], bases))
    return {label: [found[jobs.index((label, number))] for number in range(n_seeds)] for label in recipes}


def _carried_out(
    groups: Sequence[tuple[int, ...]],
    names: Sequence[str],
    recipes: Sequence[Recipe],
    places: Sequence[Path],
    bases: dict[str, Base],
    workers: int,
    progress: GridWatcher | None,
) -> Iterator[tuple[tuple[int, ...], list[Outcome]]]:
    """Each group of runs, and what came of them, in the order in which they end."""
    work = [([recipes[number] for number in group], [places[number] for number in group]) for group in groups]
    if workers > 1:
        for number, outcomes in run_side_by_side(work, workers):
            yield groups[number], outcomes
        return
    for group, (of_group, places_of) in zip(groups, work, strict=True):
        if progress is not None:
            progress.begins(names[group[0]])
        yield group, run_group(of_group, places_of, base_of(of_group[0], bases), progress)


def _groups(
    recipes: Sequence[Recipe], places: Sequence[Path], bases: dict[str, Base], workers: int
) -> list[tuple[int, ...]]:
    """The numbers of all runs, in their order; those that are to be carried out side by side stand together."""
    left = [number for number, place in enumerate(places) if not (place / DONE).is_file()]
    together: dict[int, tuple[int, ...]] = {}
    for head in dict.fromkeys(recipes[number].head for number in left):
        of_head = [number for number in left if recipes[number].head == head]
        found = plan([recipes[number] for number in of_head], base_of(recipes[of_head[0]], bases), workers)
        groups = [tuple(of_head[index] for index in group) for group in found.groups]
        together |= {number: group for group in groups for number in group}
        for reason in dict.fromkeys(found.reasons.values()):
            logger.info("%d runs: %s", list(found.reasons.values()).count(reason), reason)
    return list(dict.fromkeys(together.get(number, (number,)) for number in range(len(recipes))))


def _label(fields: Mapping[str, Any]) -> str:
    rest = ", ".join(f"{name}={value}" for name, value in fields.items() if name != "name")
    return f"{fields.get('name')} ({rest})" if rest else str(fields.get("name"))
