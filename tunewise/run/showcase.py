"""A showcase: a base and what was made of it, asked the same and heard side by side."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tunewise.adapter_folders import CARD
from tunewise.calibration import probabilities
from tunewise.data.in_memory import Data
from tunewise.data.messages import Message
from tunewise.data.task import Task
from tunewise.data.typed import TYPED, columns_of, free_task, may_be_empty, told_in, typed_example
from tunewise.errors import UserError
from tunewise.evaluation.asks import Asks, How, alone
from tunewise.evaluation.by_lane import ByLane
from tunewise.evaluation.evaluate import asks_of, prepare, written
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


@dataclass
class _Speaker:
    """One who is asked, in the way that it was asked in its run."""

    name: str
    recipe: Recipe
    task: Task
    tuned: Tuned
    so_far: list[Message] = field(default_factory=list)
    """Of the conversation."""

    @property
    def how(self) -> How:
        return How(self.tuned.method.prefix_ids(self.tuned.anatomy), packing=self.recipe.train.packing)


class Showcase:
    """Runs and adapters of one base, by name, and first of all the base itself, inside `showcase`."""

    def __init__(self, base: Base, speakers: list[_Speaker], columns: tuple[str, ...], system: str) -> None:
        self._base, self._speakers, self._system = base, speakers, system
        self.columns = columns
        """What a question is made of."""
        self.may_be_empty = {name for speaker in speakers for name in may_be_empty(speaker.task)}
        """Of these columns those that it does without."""
        self._by_lane: ByLane | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Who is asked."""
        return tuple(speaker.name for speaker in self._speakers)

    @property
    def is_conversation(self) -> bool:
        """Whether what was said before belongs to the next question."""
        return any(speaker.task.chat is not None for speaker in self._speakers)

    def ask(self, question: str | Mapping[str, object]) -> list[Said]:
        """What each says: to a text, or to the columns of a question; in a conversation, after what it said before.

        UserError for a question that lacks something.
        """
        told = told_in(question, self.columns, self.may_be_empty)
        asks = {number: self._asks(speaker, told) for number, speaker in enumerate(self._speakers)}
        found = list(self._answers(asks).values())
        for speaker, said in zip(self._speakers, found, strict=True):
            if speaker.task.chat is not None:
                turns = (("user", told[TYPED]), ("assistant", said.text))
                speaker.so_far += [Message(role, text, trained=False) for role, text in turns]
        return found

    def begin_again(self) -> None:
        """A new conversation."""
        opening = [Message("system", self._system, trained=False)] if self._system else []
        for speaker in self._speakers:
            speaker.so_far = list(opening)

    @contextmanager
    def _at_once(self) -> Iterator[None]:
        """All as lanes of one batch inside the block, where they can be; else they are asked one after another."""
        with ExitStack() as stack:
            try:
                draws = [Draws(speaker.recipe.seed, self._base.model.device) for speaker in self._speakers]
                lanes = stack.enter_context(Lanes([speaker.tuned for speaker in self._speakers], draws))
            except UserError:
                lanes = None
            if lanes is not None:
                how = {number: speaker.how for number, speaker in enumerate(self._speakers)}
                self._by_lane = ByLane(self._base, lanes, how)
            try:
                yield
            finally:
                self._by_lane = None

    def _answers(self, asks: Mapping[int, Asks[Said]]) -> dict[int, Said]:
        if self._by_lane is not None:
            return self._by_lane.answers(asks)
        found = {}
        for number, each in asks.items():
            speaker = self._speakers[number]
            speaker.tuned.reattach()
            try:
                found[number] = alone(self._base, each, speaker.how)
            finally:
                speaker.tuned.detach()
        return found

    def _asks(self, speaker: _Speaker, told: Mapping[str, str]) -> Asks[Said]:
        """The question as this one reads it."""
        task, asking, shown = speaker.task, speaker.recipe.asking, speaker.recipe.in_context
        questions = prepare(
            self._base, task, [typed_example(task, told, speaker.so_far)], n_prefix=len(speaker.how.prefix_ids),
            shots=shown.shots, seed=speaker.recipe.seed, balanced=shown.balanced, calibration=shown.calibration,
        )  # fmt: skip
        if isinstance(questions, Questions) and task.kind in WRITES:
            (text,) = yield written(self._base, questions, asking)
            return Said(speaker.name, text.strip())
        (row,) = (yield from asks_of(self._base, questions, asking)).predictions
        names: Mapping[str, str] = row.get("choices", {})
        scores: Mapping[str, float] = row.get("scores", {})
        shares = probabilities([*scores.values()]) if scores else []
        by_text = {names.get(name, name): share for name, share in zip(scores, shares, strict=True)}
        return Said(speaker.name, names.get(row["predicted"], row["predicted"]), by_text)


@contextmanager
def showcase(
    targets: Mapping[str, str | Path],
    *,
    model: str | None = None,
    data: Data | None = None,
    free: bool = False,
    system: str = "",
    max_new_tokens: int | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Iterator[Showcase]:
    """`tunewise chat`: the runs and adapters of `targets` by name, asked beside their base inside the block.

    Each is asked as it was in its run: by its template, after its demonstrations. With `free` all are asked what is
    typed, by the tokenizer's chat template where it has one. `system` opens every conversation; `max_new_tokens` are
    those of a written answer, in place of the task's own. A base with a new classifier on top is not asked itself, as
    nothing has trained that. `overrides` are those of `evaluate`. UserError for targets on unlike bases, and for tasks
    that ask for unlike things.
    """
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
    if base.head.kind == "lm":
        name = next(iter(asked))
        bare_recipe = asked[name].recipe.model_copy(update={"method": Frozen(), "adapter": ""})
        speakers.insert(0, _speaker(base, BASE, Asked(bare_recipe, None), tasks[name]))
    columns = _columns(speakers)
    shown = Showcase(base, speakers, columns, system)
    if system and not shown.is_conversation:
        raise UserError("a system prompt belongs to a conversation, and this is none", "leave --system out")
    shown.begin_again()
    with shown._at_once():
        yield shown


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


def _speaker(base: Base, name: str, asked: Asked, task: Task) -> _Speaker:
    if asked.adapter is None:
        tuned = attach(base.model, asked.recipe.method)
    else:
        tuned = load_adapter(base.model, asked.adapter, tokenizer=base.tokenizer)
    tuned.detach()
    return _Speaker(name, asked.recipe, task, tuned)


def _columns(speakers: Iterable[_Speaker]) -> tuple[str, ...]:
    """What a question to all of them is made of."""
    found = {speaker.name: columns_of(speaker.task) for speaker in speakers}
    if len(set(found.values())) > 1:
        told = "; ".join(f"{name}: {', '.join(columns)}" for name, columns in found.items())
        raise UserError(f"they are asked by unlike columns ({told})", "--free asks all what is typed")
    return next(iter(found.values()))
