"""Arms × seeds on one base and one task, each a run folder; the base is loaded once, reloads are proved in one process.

An arm is what differs from the others: a method, with its own training fields where it wants them. Everything else is
the same for all, so every arm has the same rows, steps and evaluation. Seeds run innermost last: after the first round
every arm has been seen once.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tunewise import files
from tunewise.comparison.arm_recipes import recipe_of, refuse_other_items
from tunewise.comparison.break_even import break_even_of
from tunewise.comparison.cluster import OnCluster, Ray
from tunewise.comparison.following import GridWatcher, Planned, Unfollowed, work_of
from tunewise.comparison.outcome import Outcome, failures
from tunewise.comparison.tables import rows_of, verdict_of
from tunewise.comparison.workers import OneByOne, SideBySide, Workers
from tunewise.data.task import Task, load_task
from tunewise.errors import UserError
from tunewise.files import Held
from tunewise.methods.attach import count
from tunewise.methods.base import Method
from tunewise.models.load import Base
from tunewise.run import Recipe, add_reload_proof, base_of, plan, run, run_folder
from tunewise.run.record import DONE, in_use_by
from tunewise.training.lane import Diverged

logger = logging.getLogger(__name__)

COMPARISON = "comparison.json"
SECONDS_BETWEEN_LOOKS = 1.0  # at runs that another process carries out
METHODS = ("frozen", "lora", "bitfit", "full")
Arms = Sequence[str | Mapping[str, Any] | Method] | Mapping[str, Mapping[str, Any]]


def compare(
    data: str | Mapping[str, Any],
    *,
    model: str = "tiny",
    methods: Arms = METHODS,
    seeds: Sequence[int] = (0, 1, 2),
    out: str | Path = "runs",
    overrides: Mapping[str, Any] | None = None,
    workers: int | Ray = 1,
    progress: GridWatcher | None = None,
) -> dict[str, Any]:
    """`tunewise compare`: every method with every seed, into out/<task>/<method>-<hash>/seed<k>, and comparison.json.

    `methods` is a list of names or of mappings (name and fields), or a mapping from an arm's label to the recipe
    fields of its own, in sections or dotted: {"lora r=4": {"method": {"name": "lora", "rank": 4}, "train":
    {"learning_rate": 2e-3}}, "asked": {"method": "frozen", "data.pattern": "question"}}.
    `overrides` are dotted fields for all arms; `workers` processes run side by side, or those of a cluster: Ray().
    Runs that are done are not carried out again; those that another process is at are waited for. Returns the content
    of comparison.json: one row an arm, with means and 95 % intervals over the seeds that were trained to their end, and
    the verdict over them with a test of each pair. Runs that diverged stand under `failed` of their arm, with the
    reason, and begin anew with the same call. UserError where all of them did.
    """
    if not seeds:
        raise UserError("no seeds given", "give at least one, better three: --seeds 0,1,2")
    common = {"model": model, "data": data}
    recipes = {
        label: [recipe_of(common, fields, seed, overrides) for seed in seeds]
        for label, fields in arms_of(methods).items()
    }
    bases = {(recipe.model, recipe.dtype, recipe.quantise) for of_arm in recipes.values() for recipe in of_arm}
    if len(bases) > 1:
        told = "; ".join(" ".join(filter(None, base)) for base in sorted(bases))
        raise UserError(f"the arms stand on {len(bases)} bases: {told}", "compare what stands on one base")
    refuse_other_items(recipes)
    root = Path(out)
    folders = {label: [run_folder(recipe, root) for recipe in of_arm] for label, of_arm in recipes.items()}
    outcomes = carry_out(recipes, folders, root, workers, progress)
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
        "arms": arms,
        "verdict": verdict_of(_places(_reliable(arms), root)),
        "rows": rows_of(_places(arms, root)),
        "break_even": break_even_of(_places(arms, root)),
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
    root: Path,
    workers: int | Ray = 1,
    progress: GridWatcher | None = None,
) -> dict[str, list[Outcome]]:
    """Every run, all arms of one seed before the next seed, but for those that share batches with a later one; then
    the reloads of all adapters in one fresh process. What came of the runs of each arm."""
    n_seeds = max(map(len, recipes.values()))
    jobs = [(label, number) for number in range(n_seeds) for label in recipes]
    grid = _Grid(
        [recipes[label][number] for label, number in jobs],
        [folders[label][number] for label, number in jobs],
        [label for label, _ in jobs],
        Unfollowed() if progress is None else progress,
    )
    found = grid.carry_out(lambda: workers_for(workers, grid.bases, root))
    done = [place for number, place in enumerate(grid.places) if not isinstance(found[number], Diverged)]
    add_reload_proof(done, base_of(grid.recipes[0], grid.bases))
    return {label: [found[jobs.index((label, number))] for number in range(n_seeds)] for label in recipes}


class _Grid:
    """The runs of a comparison in their order, and those that have ended. Each is known by its number."""

    def __init__(
        self, recipes: Sequence[Recipe], places: Sequence[Path], arms: Sequence[str], progress: GridWatcher
    ) -> None:
        self.recipes, self.places, self._arms, self._progress = recipes, places, arms, progress
        self.bases: dict[str, Base] = {}
        self._found: dict[int, Outcome] = {}

    def carry_out(self, workers: Callable[[], Workers]) -> dict[int, Outcome]:
        """What came of each run. `workers` are asked for where one is left to do; who carries the same comparison out
        beside us may do some of them, and we wait for it."""
        done = {number for number, place in enumerate(self.places) if (place / DONE).is_file()}
        with ExitStack() as stack:
            hands = None if len(done) == len(self.places) else stack.enter_context(workers())
            n_workers = 1 if hands is None else hands.n_workers
            self._progress.planned(self._planned(done), n_workers)
            while True:
                self._read_those_done()
                left = [number for number in range(len(self.places)) if number not in self._found]
                if not left or hands is None:
                    return self._found
                free = self._not_in_use(left)
                if free:
                    self._hand_out(hands, self._groups(free, n_workers))
                else:
                    time.sleep(SECONDS_BETWEEN_LOOKS)

    def _planned(self, done: set[int]) -> list[Planned]:
        tasks: dict[str, Task] = {}
        trains: dict[str, bool] = {}
        planned = []
        for number, (recipe, arm) in enumerate(zip(self.recipes, self._arms, strict=True)):
            work: Mapping[str, float] = {}
            if number not in done:
                base, data = base_of(recipe, self.bases), recipe.data.model_dump_json()
                tasks[data] = tasks.get(data) or load_task(recipe.data, base.tokenizer)
                trains[arm] = trains.get(arm) or count(base.model, recipe.method) > 0
                work = work_of(recipe, tasks[data], trains[arm])
            planned.append(Planned(f"{arm} seed {recipe.seed}", arm, number in done, **work))
        return planned

    def _read_those_done(self) -> None:
        for number, place in enumerate(self.places):
            if number not in self._found and (place / DONE).is_file():
                self._ends(number, run(self.recipes[number], place))

    def _not_in_use(self, numbers: Sequence[int]) -> list[int]:
        """Those that no other process is at; who is at the others is told."""
        users = {number: in_use_by(self.places[number]) for number in numbers}
        for user in sorted(set(filter(None, users.values()))):
            logger.info("%s carries out some of these runs: they are left to it, and waited for", user)
        return [number for number in numbers if not users[number]]

    def _hand_out(self, hands: Workers, groups: Sequence[tuple[int, ...]]) -> None:
        work = [([self.recipes[n] for n in group], [self.places[n] for n in group]) for group in groups]
        for job, outcomes in hands.carry_out(work, lambda job: self._progress.begins(groups[job])):
            if isinstance(outcomes, Held):
                self._progress.puts_off(groups[job])
                continue
            for number, outcome in zip(groups[job], outcomes, strict=True):
                self._ends(number, outcome)

    def _ends(self, number: int, outcome: Outcome) -> None:
        self._found[number] = outcome
        self._progress.ends(number, outcome)

    def _groups(self, numbers: Sequence[int], n_workers: int) -> list[tuple[int, ...]]:
        """These runs in their order; those that are to be carried out side by side stand together."""
        together: dict[int, tuple[int, ...]] = {}
        for head in dict.fromkeys(self.recipes[number].head for number in numbers):
            of_head = [number for number in numbers if self.recipes[number].head == head]
            wanted = [self.recipes[number] for number in of_head]
            found = plan(wanted, base_of(wanted[0], self.bases), n_workers)
            groups = [tuple(of_head[index] for index in group) for group in found.groups]
            together |= {number: group for group in groups for number in group}
            for reason in dict.fromkeys(found.reasons.values()):
                logger.info("%d runs: %s", list(found.reasons.values()).count(reason), reason)
        return list(dict.fromkeys(together.get(number, (number,)) for number in numbers))


def workers_for(workers: int | Ray, bases: dict[str, Base], root: Path) -> Workers:
    """Who carries runs out into folders below `root`: this process, several of this machine, or those of a cluster."""
    if isinstance(workers, Ray):
        return OnCluster(workers, root)
    return OneByOne(bases) if workers == 1 else SideBySide(workers)


def _label(fields: Mapping[str, Any]) -> str:
    rest = ", ".join(f"{name}={value}" for name, value in fields.items() if name != "name")
    return f"{fields.get('name')} ({rest})" if rest else str(fields.get("name"))
