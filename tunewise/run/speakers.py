"""A base and what was made of it, each asked as it was in its run: side by side in one batch, where they can be."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch.utils.hooks import RemovableHandle

from tunewise.adapter_folders import CARD
from tunewise.calibration import probabilities
from tunewise.data.examples import Example
from tunewise.data.in_memory import Data
from tunewise.data.task import Task
from tunewise.data.typed import free_task
from tunewise.engine.fused import held
from tunewise.errors import UserError
from tunewise.evaluation.asks import Asks, How, Known, alone
from tunewise.evaluation.by_lane import ByLane
from tunewise.evaluation.by_source import Prepared
from tunewise.evaluation.evaluate import Asking, asks_of, prepare, written
from tunewise.evaluation.questions import Questions
from tunewise.methods.attach import Tuned, attach
from tunewise.methods.lanes import Draws, Lanes
from tunewise.methods.selective.frozen import Frozen
from tunewise.methods.store import load_adapter, read_card
from tunewise.models.heads import TaskHead
from tunewise.models.load import Base, load_base
from tunewise.run.measure import Asked, asked_of, find_rows
from tunewise.run.prepare import Loading, head_for, load_for, task_asked
from tunewise.run.recipe import NO_DATA, Recipe

BASE, AUTO = "base", "auto"
WRITES = ("generation", "language_modelling")


@dataclass(frozen=True)
class Said:
    """What one of them said."""

    speaker: str
    text: str
    probabilities: Mapping[str, float] = field(default_factory=dict)
    """Of every answer that it could choose, where it chooses one of several."""


@dataclass(frozen=True)
class Speaker:
    """One who is asked, in the way that it was asked in its run."""

    name: str
    recipe: Recipe
    task: Task
    tuned: Tuned

    @property
    def how(self) -> How:
        return How(self.tuned.method.prefix_ids(self.tuned.anatomy), packing=self.recipe.train.packing)

    def questions(self, base: Base, examples: Sequence[Example]) -> Prepared:
        """These as it reads them, after its demonstrations."""
        shown = self.recipe.in_context
        return prepare(
            base, self.task, examples, n_prefix=len(self.how.prefix_ids), shots=shown.shots,
            seed=self.recipe.seed, balanced=shown.balanced, calibration=shown.calibration,
        )  # fmt: skip

    def written_at_most(self, base: Base, questions: Questions) -> int:
        """Tokens of an answer: as many as its task has, or as are left of the context behind the longest prompt."""
        wanted = questions.task.max_new_tokens
        if base.longest is None:
            return wanted
        read = len(self.how.prefix_ids) + max(map(len, questions.prompts))
        return min(wanted, base.longest - read)

    def says(self, base: Base, questions: Prepared, asking: Asking | None = None) -> Asks[list[Said]]:
        """What it says to each; `asking` is in place of what its recipe says."""
        asking = self.recipe.asking if asking is None else asking
        if isinstance(questions, Questions) and self.task.kind in WRITES:
            texts = yield written(base, questions, asking)
            return [Said(self.name, text.strip()) for text in texts]
        rows = (yield from asks_of(base, questions, asking)).predictions
        return [self._chosen(row) for row in rows]

    def _chosen(self, row: Mapping[str, Any]) -> Said:
        names: Mapping[str, str] = row.get("choices", {})
        scores: Mapping[str, float] = row.get("scores", {})
        shares = probabilities([*scores.values()]) if scores else []
        by_text = {names.get(name, name): share for name, share in zip(scores, shares, strict=True)}
        return Said(self.name, names.get(row["predicted"], row["predicted"]), by_text)


class Speakers:
    """Runs and adapters of one base, by number, and first of all the base itself; they answer inside `at_once`."""

    def __init__(self, base: Base, each: Sequence[Speaker]) -> None:
        self.base, self.each = base, tuple(each)
        self._ending: RemovableHandle | None = None
        self.lanes: Lanes | None = None
        """Of all of them, inside `at_once`; None where they cannot be."""
        self.by_lane: ByLane | None = None

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """All as lanes of one batch inside the block, where they can be; else they are asked one after another."""
        with ExitStack() as stack:
            stack.enter_context(held(self.base.model, is_answering=True))
            try:
                draws = [Draws(speaker.recipe.seed, self.base.model.device) for speaker in self.each]
                self.lanes = stack.enter_context(Lanes([speaker.tuned for speaker in self.each], draws))
            except UserError:
                self.lanes = None
            if self.lanes is not None:
                how = {number: speaker.how for number, speaker in enumerate(self.each)}
                self.by_lane = ByLane(self.base, self.lanes, how)
            try:
                yield
            finally:
                self.lanes = self.by_lane = None
                if self._ending is not None:
                    self._ending.remove()
                    self._ending = None

    def end(self) -> None:
        """Break off what is being asked in other threads, at its next pass, and whatever is asked from now on: by
        UserError."""

        def refuse(*_: object) -> None:
            raise UserError("nobody answers any more", "start it again")

        if self._ending is None:
            self._ending = self.base.model.register_forward_pre_hook(refuse)

    def answers(self, asks: Mapping[int, Asks[Known]]) -> dict[int, Known]:
        """What the asks of each come to."""
        if self.by_lane is not None:
            return self.by_lane.answers(asks)
        found = {}
        for number, each in asks.items():
            with self.only(number):
                found[number] = alone(self.base, each, self.each[number].how)
        return found

    @contextmanager
    def only(self, number: int) -> Iterator[None]:
        """Inside the block the base carries this one alone."""
        tuned = self.each[number].tuned
        if self.lanes is not None:
            with self.lanes.only(tuned):
                yield
            return
        tuned.reattach()
        try:
            yield
        finally:
            tuned.detach()


def speakers_of(
    targets: Mapping[str, str | Path],
    *,
    model: str | None = None,
    data: Data | None = None,
    free: bool = False,
    overrides: Mapping[str, Any] | None = None,
    max_new_tokens: int | None = None,
) -> Speakers:
    """The runs and adapters of `targets` by name, and their base, loaded once.

    Each is asked as it was in its run; with `free` what is typed, by the tokenizer's chat template where it has one. A
    base with a new classifier on top is not among them, as nothing has trained that. `overrides` are those of
    `evaluate`, and `max_new_tokens` are those of a written answer, in place of the task's own. UserError for targets on
    unlike bases, and with `free` for those that write no text.
    """
    if free and data is not None:
        raise UserError("what is asked freely belongs to no data", "leave --free out, or --data")
    given = NO_DATA if free else data
    asked = {name: asked_of(Path(target), model, given, overrides or {}) for name, target in targets.items()}
    if free:
        _refuse_heads({name: each.adapter for name, each in asked.items() if each.adapter is not None})
    if not asked:
        asked = {BASE: asked_of(None, model, given, overrides or {})}
    base, tasks = _loaded(asked, free)
    if max_new_tokens is not None:
        tasks = {name: replace(task, max_new_tokens=max_new_tokens) for name, task in tasks.items()}
    # without demonstrations a run that trained nothing is the base
    bare = [name for name, each in asked.items() if each.adapter is None and (free or not each.recipe.in_context.shots)]
    speakers = [_speaker(base, name, asked[name], tasks[name]) for name in asked if name not in bare]
    if not base.new_parameters:
        if BASE in asked and BASE not in bare:
            raise UserError(f"{asked[BASE].adapter or BASE} goes by the name of its base", "give it another name")
        name = next(iter(asked))
        bare_recipe = asked[name].recipe.model_copy(update={"method": Frozen(), "adapter": ""})
        speakers.insert(0, _speaker(base, BASE, Asked(bare_recipe, None), tasks[name]))
    return Speakers(base, speakers)


def _loaded(asked: Mapping[str, Asked], free: bool) -> tuple[Base, dict[str, Task]]:
    """The base of all, and the task of each: of its rows, or as its folder has it."""
    recipes = {name: each.recipe for name, each in asked.items()}
    first_name, first = next(iter(recipes.items()))
    dtype = AUTO if any(recipe.dtype == AUTO for recipe in recipes.values()) else first.dtype
    for name, recipe in recipes.items():
        _refuse_unlike((first_name, first), (name, recipe))
    if free:
        base = load_base(first.model, dtype, "", TaskHead(), first.quantise)
        assert base.tokenizer is not None
        _check_dtype(base, recipes)
        return base, dict.fromkeys(recipes, free_task(base.tokenizer))
    for name, each in asked.items():
        if each.kept is None:
            find_rows(each.recipe, name)
    base, _ = load_for(first.data, first.model, dtype, first.head, first.quantise, kept=asked[first_name].kept)
    _check_dtype(base, recipes)
    tasks = {}
    for name, recipe in recipes.items():
        own = task_asked(recipe, base.tokenizer, asked[name].kept)
        if head_for(own, base.anatomy.kind, recipe.model, recipe.head) != base.head:
            raise UserError(f"{name} answers by another head than {first_name}", "talk to those alike at a time")
        tasks[name] = own
    return base, tasks


def _refuse_unlike(one: tuple[str, Recipe], other: tuple[str, Recipe]) -> None:
    """UserError for two by name that stand on unlike bases; what a dtype of `auto` is, the loaded base says."""
    (first_name, first), (name, recipe) = one, other
    each = zip(Loading._fields, Loading.of(first), Loading.of(recipe), strict=True)
    unlike = {field: (ours, theirs) for field, ours, theirs in each if ours != theirs}
    if AUTO in unlike.get("dtype", ()):
        del unlike["dtype"]
    if unlike:
        told = ", ".join(f"{field} {ours or 'none'} and {theirs or 'none'}" for field, (ours, theirs) in unlike.items())
        named = " (or give --model, where these are two names of one base)" if [*unlike] == ["model"] else ""
        raise UserError(
            f"{first_name} and {name} stand on unlike bases: {told}", f"talk to those of one base at a time{named}"
        )


def _check_dtype(base: Base, recipes: Mapping[str, Recipe]) -> None:
    """UserError for one that stands on a base in another precision than that of those who left it to the machine."""
    if all(recipe.dtype != AUTO for recipe in recipes.values()):
        return
    found = str(base.dtype).removeprefix("torch.")
    for name, recipe in recipes.items():
        if recipe.dtype not in (AUTO, found):
            other = next(each for each in recipes if recipes[each].dtype == AUTO)
            raise UserError(
                f"{other} and {name} stand on unlike bases: dtype {found} and {recipe.dtype}",
                "talk to those of one base at a time",
            )


def _refuse_heads(adapters: Mapping[str, Path]) -> None:
    """UserError for an adapter with a new head on its base, which answers nothing but its own task."""
    for name, folder in adapters.items():
        head = read_card(folder)["base"].get("head", {}) if (folder / CARD).is_file() else {}
        if head.get("kind", "lm") != "lm":
            raise UserError(f"{name} answers by a new head ({head['kind']}), which writes no text", "leave --free out")


def _speaker(base: Base, name: str, asked: Asked, task: Task) -> Speaker:
    if asked.adapter is None:
        tuned = attach(base.model, asked.recipe.method)
    else:
        tuned = load_adapter(base.model, asked.adapter, tokenizer=base.tokenizer)
    tuned.detach()
    return Speaker(name, asked.recipe, task, tuned)
