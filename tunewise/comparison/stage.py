"""A stage of a comparison: runs, or trials up to a share of their steps, carried out by whoever is there to do it."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tunewise.comparison.following import GridWatcher, Planned, work_of
from tunewise.comparison.outcome import Outcome
from tunewise.comparison.workers import Job, Workers
from tunewise.data.load import load_task
from tunewise.data.task import Task
from tunewise.files import Held
from tunewise.methods.attach import count
from tunewise.run import Bases, Loading, Recipe, base_of, plan, run
from tunewise.run.prepare import drawn
from tunewise.run.record import base_is_newer, in_use_by, is_done, refuse_another_base
from tunewise.run.trials import known

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 1.0  # at runs that another process carries out


@dataclass
class Stage:
    """Recipes in their order, and those that have come to an end. Each is known by its number.

    Recipes of one place are one run: it is carried out once, and what comes of it is all of theirs.
    """

    recipes: Sequence[Recipe]
    places: Sequence[Path]
    names: Sequence[str]
    arms: Sequence[str]
    bases: Bases
    """Those that are loaded in this process."""
    progress: GridWatcher
    share: float | None = None
    """Of their steps, to which trials are brought; None for whole runs."""
    _found: dict[int, Outcome] = field(default_factory=dict)

    def carry_out(self, workers: Callable[[], Workers]) -> list[Outcome]:
        """What came of each. `workers` are asked for where one is left to do; who carries the same comparison out
        beside us may do some of them, and we wait for it."""
        before = {number: outcome for number in range(len(self.places)) if (outcome := self._known(number)) is not None}
        hands = None if len(before) == len(self.places) else workers()
        n_workers = 1 if hands is None else hands.n_workers
        self.progress.planned(self._planned(set(before)), n_workers)
        for number, outcome in before.items():
            self._ends(number, outcome)
        while hands is not None and len(self._found) < len(self.places):
            left = [number for number in self._of_each_place() if number not in self._found]
            free = self._not_in_use(left)
            if free:
                self._hand_out(hands, self._groups(free, n_workers))
            else:
                time.sleep(SECONDS_BETWEEN_LOOKS)
            for number in left:  # what another process has ended meanwhile
                if number not in self._found and (outcome := self._known(number)) is not None:
                    self._ends(number, outcome)
        return [self._found[number] for number in range(len(self.places))]

    def _of_each_place(self) -> list[int]:
        return [number for number, place in enumerate(self.places) if self.places.index(place) == number]

    def _known(self, number: int) -> Outcome | None:
        """What is written of a run that is done, or of a trial that has come so far."""
        recipe, place = self.recipes[number], self.places[number]
        base = base_of(recipe, self.bases) if base_is_newer(recipe, place) else None
        if self.share is None:
            return run(recipe, place, base=base) if is_done(place) else None
        if base is not None:
            refuse_another_base(place, base)
        return known(recipe, place, self.share)

    def _planned(self, done: set[int]) -> list[Planned]:
        tasks: dict[str, Task] = {}
        trains: dict[str, bool] = {}
        planned = []
        for number, (recipe, arm) in enumerate(zip(self.recipes, self.arms, strict=True)):
            work: Mapping[str, float] = {}
            if number not in done:
                base, data = base_of(recipe, self.bases), recipe.data.model_dump_json()
                tasks[data] = tasks.get(data) or drawn(load_task(recipe.data, base.tokenizer), recipe)
                trains[arm] = trains.get(arm) or count(base.model, recipe.method) > 0
                work = work_of(recipe, tasks[data], trains[arm])
            planned.append(Planned(self.names[number], arm, number in done, **work))
        return planned

    def _not_in_use(self, numbers: Sequence[int]) -> list[int]:
        """Those that no other process is at; who is at the others is told."""
        users = {number: in_use_by(self.places[number]) for number in numbers}
        for user in sorted(set(filter(None, users.values()))):
            logger.info("%s carries out some of these runs: they are left to it, and waited for", user)
        return [number for number in numbers if not users[number]]

    def _hand_out(self, hands: Workers, groups: Sequence[tuple[int, ...]]) -> None:
        jobs = [Job([self.recipes[n] for n in group], [self.places[n] for n in group], self.share) for group in groups]
        for job, outcomes in hands.carry_out(jobs, lambda job: self.progress.begins(groups[job])):
            if isinstance(outcomes, Held):
                self.progress.puts_off(groups[job])
                continue
            for number, outcome in zip(groups[job], outcomes, strict=True):
                self._ends(number, outcome)

    def _ends(self, number: int, outcome: Outcome) -> None:
        for twin in (twin for twin, place in enumerate(self.places) if place == self.places[number]):
            if twin not in self._found:
                self._found[twin] = outcome
                self.progress.ends(twin, outcome)

    def _groups(self, numbers: Sequence[int], n_workers: int) -> list[tuple[int, ...]]:
        """These in their order, but for the last round of several workers; those that are to be carried out side by
        side stand together."""
        together: dict[int, tuple[int, ...]] = {}
        for loading in dict.fromkeys(Loading.of(self.recipes[number]) for number in numbers):
            of_base = [number for number in numbers if Loading.of(self.recipes[number]) == loading]
            wanted = [self.recipes[number] for number in of_base]
            found = plan(wanted, base_of(wanted[0], self.bases), n_workers)
            groups = [tuple(of_base[index] for index in group) for group in found.groups]
            together |= {number: group for group in groups for number in group}
            for reason in dict.fromkeys(found.reasons.values()):
                logger.info("%d runs: %s", list(found.reasons.values()).count(reason), reason)
        in_order = list(dict.fromkeys(together.get(number, (number,)) for number in numbers))
        if n_workers == 1:
            return in_order
        last = max(0, len(in_order) - len(set(self.arms)))
        return [*in_order[:last], *sorted(in_order[last:], key=self._n_trained, reverse=True)]

    def _n_trained(self, group: Sequence[int]) -> int:
        """Parameters that these runs train: who trains much begins the last round, so that nobody is waited for long at
        its end."""
        recipes = [self.recipes[number] for number in group]
        return sum(count(base_of(recipe, self.bases).model, recipe.method) for recipe in recipes)
