"""Arms × seeds on one base and one task, each a run folder; the base is loaded once in each format, reloads are proved
in one process each.

An arm is what differs from the others: a method, with its own training fields where it wants them. Everything else is
the same for all, so every arm has the same rows, steps and evaluation. Where trials are asked for, each arm's own
fields are chosen on dev first. Seeds run innermost last: after the first round every arm has been seen once.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

from tunewise import files
from tunewise.break_even import break_even_of
from tunewise.comparison.at_once import are_short, n_at_once
from tunewise.comparison.cluster import OnCluster, Ray
from tunewise.comparison.following import GridWatcher, Unfollowed
from tunewise.comparison.outcome import Outcome, failures
from tunewise.comparison.protocol import ARMS, Arms, Comparison, build_comparison
from tunewise.comparison.search import Search, at, points_of, search
from tunewise.comparison.stage import Stage
from tunewise.comparison.tables import rows_of, verdict_of
from tunewise.comparison.workers import OneByOne, SideBySide, Workers
from tunewise.data.in_memory import Data, data_fields
from tunewise.errors import UserError
from tunewise.processes import spare_cores
from tunewise.run import Bases, Loading, Recipe, add_reload_proof, base_of, is_done, refuse_unfit, run_folder
from tunewise.run.record import METRICS, mapping, refuse_another_base
from tunewise.training import reload
from tunewise.training.lane import Diverged

COMPARISON = "comparison.json"
METHODS = ("frozen", "lora", "bitfit", "full")


def compare(
    data: Data,
    *,
    model: str = "tiny",
    methods: Arms = METHODS,
    seeds: Sequence[int] = (0, 1, 2),
    out: str | Path = "runs",
    overrides: Mapping[str, Any] | None = None,
    workers: int | Ray | None = None,
    progress: GridWatcher | None = None,
) -> dict[str, Any]:
    """`tunewise compare`: every method with every seed, into out/<task>/<method>-<hash>/seed<k>, and comparison.json.

    `methods` is a list of names or of mappings (name and fields), or a mapping from an arm's label to the recipe
    fields of its own, in sections or dotted: {"lora r=4": {"method": {"name": "lora", "rank": 4}, "train":
    {"learning_rate": 2e-3}}, "asked": {"method": "frozen", "data.pattern": "question"}}. `overrides` are dotted fields
    for all arms, and fields of the protocol: {"trials": 4, "margin": 1.0}. The rest is as `carry_out_comparison` says.
    """
    fields = {"model": model, "data": data_fields(data), ARMS: methods, "seeds": tuple(seeds)}
    return carry_out_comparison(build_comparison(fields, overrides), out, workers=workers, progress=progress)


def carry_out_comparison(
    comparison: Comparison,
    out: str | Path = "runs",
    *,
    workers: int | Ray | None = None,
    progress: GridWatcher | None = None,
) -> dict[str, Any]:
    """Trials of every arm on dev, where any are asked for, then every arm with every seed.

    `workers` processes run side by side, or those of a cluster: Ray(); where nothing is said, two where that saves
    time. Runs and trials that are done are not carried out again; those that another process is at are waited for.
    Returns the content of comparison.json: one row an arm, with means and 95 % intervals over the seeds that were
    trained to their end, what was searched, and the verdict with a test of each pair. Runs that diverged stand under
    `failed` of their arm, with the reason, and begin anew with the same call. UserError where all of them did, and
    where the data doctor finds errors that are not to be ignored.
    """
    root, protocol, recipes = Path(out), comparison.protocol, comparison.recipes
    if not protocol.ignore_findings:
        refuse_unfit([of_arm[0] for of_arm in recipes.values()])
    bases: Bases = {}
    searches: dict[str, Search] = {}
    watcher = Unfollowed() if progress is None else progress
    with ExitStack() as stack:

        def started() -> Workers:
            left = still_left(comparison, root)
            return stack.enter_context(workers_for(workers or n_at_once(left, bases), bases, root, left))

        hands = cache(started)  # asked for once something is left to do, and kept to the end
        if protocol.trials > 1:
            searches = searched(comparison, root, bases, hands, watcher)
            recipes = {
                label: tuple(at(recipe, searches[label].chosen.point) for recipe in of_arm)
                for label, of_arm in recipes.items()
            }
        folders = {label: [run_folder(recipe, root) for recipe in of_arm] for label, of_arm in recipes.items()}
        outcomes = carry_out(recipes, folders, bases, hands, watcher)
    arms: list[dict[str, Any]] = []
    for label, of_arm in folders.items():
        failed = failures(protocol.seeds, outcomes[label])
        finished = [seed for seed in protocol.seeds if seed not in [each["seed"] for each in failed]]
        arm = {"label": label, "folder": of_arm[0].parent.relative_to(root).as_posix()}
        told = searches[label].told() if label in searches else None
        arms.append({**arm, "seeds": finished, "failed": failed, "search": told})
    content = _content(comparison, arms, root)
    files.write_json(root / COMPARISON, content)
    if not any(arm["seeds"] for arm in arms):
        lost = arms[0]["failed"][0]
        raise UserError(f"every run diverged; {arms[0]['label']} seed {lost['seed']}: {lost['reason']}", lost["hint"])
    return content


def still_left(comparison: Comparison, root: Path) -> Mapping[str, Sequence[Recipe]]:
    """The runs that are not done; where a search is to choose their fields first, all of them."""
    if comparison.protocol.trials > 1:
        return comparison.recipes
    return {
        label: [recipe for recipe in of_arm if not is_done(run_folder(recipe, root))]
        for label, of_arm in comparison.recipes.items()
    }


def _content(comparison: Comparison, arms: Sequence[Mapping[str, Any]], root: Path) -> dict[str, Any]:
    """What comparison.json holds."""
    reliable = [arm for arm in arms if not arm["failed"]] or [arm for arm in arms if arm["seeds"]]
    places = _places(arms, root)
    return {
        "model": comparison.first.model,
        "data": comparison.first.data.model_dump(mode="json"),
        "out_of_domain": {name: each.path for name, each in comparison.first.out_of_domain.items()},
        "protocol": comparison.protocol.model_dump(mode="json"),
        "unlike": comparison.unlike,
        "against": comparison.against,
        "arms": arms,
        "verdict": verdict_of(_places(reliable, root), comparison.protocol.rule),
        "elsewhere": {
            name: verdict_of(_places(reliable, root), comparison.protocol.rule, elsewhere=name)
            for name in (_asked_of_all(comparison) if comparison.against else ())
        },
        "rows": rows_of(places),
        "break_even": break_even_of(
            {label: [mapping(folder / METRICS) for folder in folders] for label, folders in places.items()}
        ),
    }


def _asked_of_all(comparison: Comparison) -> list[str]:
    """The out-of-domain test sets that every arm is asked."""
    each = [of_arm[0].out_of_domain for of_arm in comparison.recipes.values()]
    return [name for name in each[0] if all(name in sets for sets in each)]


def _places(arms: Sequence[Mapping[str, Any]], root: Path) -> dict[str, list[Path]]:
    """Label -> the folders of its finished runs."""
    return {arm["label"]: [root / arm["folder"] / f"seed{seed}" for seed in arm["seeds"]] for arm in arms}


def searched(
    comparison: Comparison, root: Path, bases: Bases, hands: Callable[[], Workers], progress: GridWatcher
) -> dict[str, Search]:
    """What dev chooses for each arm, out of the first points of its space, with the first seed."""
    first = {label: of_arm[0] for label, of_arm in comparison.recipes.items()}

    def advance(names: Sequence[str], recipes: Sequence[Recipe], places: Sequence[Path], share: float) -> list[Outcome]:
        return Stage(recipes, places, names, names, bases, progress, share).carry_out(hands)

    return search(first, points_of(comparison, bases), root, advance)


def carry_out(
    recipes: Mapping[str, Sequence[Recipe]],
    folders: Mapping[str, Sequence[Path]],
    bases: Bases,
    hands: Callable[[], Workers],
    progress: GridWatcher,
) -> dict[str, list[Outcome]]:
    """Every run, all arms of one seed before the next seed, but for those that share batches with a later one; then
    the reloads of all adapters, in one fresh process a base. What came of the runs of each arm."""
    n_seeds = max(map(len, recipes.values()))
    jobs = [(label, number) for number in range(n_seeds) for label in recipes]
    in_order = [recipes[label][number] for label, number in jobs]
    places = [folders[label][number] for label, number in jobs]
    names = [f"{label} seed {recipe.seed}" for (label, _), recipe in zip(jobs, in_order, strict=True)]
    found = Stage(in_order, places, names, [label for label, _ in jobs], bases, progress).carry_out(hands)
    done: dict[Loading, list[Path]] = {}
    for recipe, place, outcome in zip(in_order, places, found, strict=True):
        of_base = done.setdefault(Loading.of(recipe), [])
        if not isinstance(outcome, Diverged) and place not in of_base:
            of_base.append(place)
    for loading, of_base in done.items():
        base = base_of(next(each for each in in_order if Loading.of(each) == loading), bases)
        for place in of_base:  # of a name on the hub, whose files may be others by now, nothing tells it before
            refuse_another_base(place, base)
        add_reload_proof(of_base, base)
    return {label: [found[jobs.index((label, number))] for number in range(n_seeds)] for label in recipes}


def workers_for(workers: int | Ray, bases: Bases, root: Path, left: Mapping[str, Sequence[Recipe]]) -> Workers:
    """Who carries the runs that are left out into folders below `root`: this process, several of this machine, or those
    of a cluster."""
    if isinstance(workers, Ray):
        return OnCluster(workers, root)
    if workers > 1:
        return SideBySide(workers, bases if spare_cores() and are_short(left, bases) else None)
    reload.FRESH.import_meanwhile()
    return OneByOne(bases)
