"""The base and the task of a recipe, each as the other needs it."""

import math
import random
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tunewise.data.config import DataConfig
from tunewise.data.load import load_task
from tunewise.data.mixture import MIXTURE, few_of_each, of_sources
from tunewise.data.replay import n_replayed
from tunewise.data.shapes import is_template
from tunewise.data.splits import few_shot
from tunewise.data.streamed import Streamed
from tunewise.data.task import Task
from tunewise.errors import UserError
from tunewise.evaluation.metrics import check
from tunewise.evaluation.own_metrics import check_own
from tunewise.models.families import ENCODER_DECODER, VISION, WRITERS, kind_of
from tunewise.models.fingerprint import of_chat_template, of_cutting
from tunewise.models.heads import HeadChoice, HeadKind, TaskHead
from tunewise.models.load import Base, load_base, load_config, load_tokenizer
from tunewise.run.classes_told import head_in, told_by
from tunewise.run.kept import Kept, task_kept
from tunewise.run.recipe import Recipe
from tunewise.run.record import data_digest

N_TASKS = 2
"""So many tasks are kept as they were read: the rows of one comparison, and a few of them."""
_TASKS: OrderedDict[tuple[str | None, ...], Task] = OrderedDict()
CLASSIFIERS: dict[str, HeadKind] = {"classification": "classes", "regression": "value", "tagging": "tags"}


class Loading(NamedTuple):
    """How a base is loaded; recipes that agree in it share one base."""

    model: str
    dtype: str
    head: str
    quantise: str

    @classmethod
    def of(cls, recipe: Recipe) -> "Loading":
        """That of this recipe's base."""
        return cls(recipe.model, recipe.dtype, recipe.head, recipe.quantise)


Bases = dict[Loading, Base]
"""The bases that a process has loaded."""


def fields_of(model: str | PathLike[str] | Base) -> tuple[dict[str, str], Base | None]:
    """What a recipe says of a base that is named, or loaded already; and the one that is loaded."""
    if isinstance(model, Base):
        dtype = str(model.dtype).removeprefix("torch.")
        return {"model": model.name, "dtype": dtype, "quantise": model.quantise}, model
    if isinstance(model, PreTrainedModel):
        raise UserError(
            f"a {type(model).__name__} says not which base it is, and a run that is to be proved has to load it again",
            "save it and its tokenizer by save_pretrained(FOLDER) and give FOLDER, or what tunewise.load_base returns",
        )
    return {"model": str(model)}, None


def load_for(
    data: DataConfig,
    model: str,
    dtype: str = "auto",
    head: HeadChoice = "auto",
    quantise: str = "",
    base: Base | None = None,
    kept: Kept | None = None,
    adapter: Path | None = None,
) -> tuple[Base, Task]:
    """The base and the task, or what was `kept` of it; `base` itself where it has the head that this task wants.

    The data is read first: what is wrong with it is told before a large model is loaded. Of an `adapter` with a
    classifier the task is asked by its classes.
    """
    kind = kind_of(load_config(model)) if base is None else base.anatomy.kind
    tokenizer = base.tokenizer if base is not None else None if kind == VISION else load_tokenizer(model)
    task = task_of(data, tokenizer) if kept is None else task_kept(kept, data.path, tokenizer)
    for each in task.each.values():
        assert each.kind != MIXTURE
        check_own(each.metrics)
        check(each.metrics, each.kind)
    task, wanted = told_by(head_in(adapter), task, head_for(task, kind, model, head), adapter)
    refuse_untrained(data, kind, wanted)
    task = as_read(task, data, wanted)
    if base is None or base.head != wanted:
        base = load_base(model, dtype, "" if base is None else str(base.model.device), wanted, quantise)
    return base, task


def key_of(data: DataConfig, tokenizer: PreTrainedTokenizerBase | None) -> tuple[str | None, ...]:
    """All that decides what a task is: its configuration, its files, and who cuts and writes its texts."""
    reads = () if tokenizer is None else (of_cutting(tokenizer), of_chat_template(tokenizer))
    return data.model_dump_json(), data_digest(data), *reads


def task_of(data: DataConfig, tokenizer: PreTrainedTokenizerBase | None) -> Task:
    """The task as it was read last, where its files have not changed since: trials at their rungs share it."""
    key = key_of(data, tokenizer)
    if key in _TASKS:
        _TASKS.move_to_end(key)
        return _TASKS[key]
    task = load_task(data, tokenizer)
    _TASKS[key] = task
    while len(_TASKS) > N_TASKS:
        _TASKS.popitem(last=False)
    return task


def task_asked(recipe: Recipe, tokenizer: PreTrainedTokenizerBase | None, kept: Kept | None) -> Task:
    """The task as the run of this recipe has it, or what was `kept` of it."""
    return (
        drawn(task_of(recipe.data, tokenizer), recipe) if kept is None else task_kept(kept, recipe.data.path, tokenizer)
    )


def drawn(task: Task, recipe: Recipe) -> Task:
    """The task as this run has it: with `data.few_shot`, only so many training rows, drawn by the run's seed.

    Of a big file, which is read row by row, as many as the run sees where that are fewer, or in a mixture as many as it
    could see at most: the others are not cut into tokens, and the account of rows is of those that were. Of what is
    replayed beside either only so many that its share is kept.
    """
    if recipe.data.few_shot is None:
        return _seen(task, recipe)
    n_few = recipe.data.few_shot
    if task.mixture is not None:
        task = few_of_each(task, n_few, recipe.seed)
    else:
        task = replace(task, train=few_shot(task.train, n_few, recipe.seed))
    return _replaying_its_share(task, recipe)


def _seen(task: Task, recipe: Recipe) -> Task:
    n_drawn = recipe.train.n_drawn(recipe.data.n_drawn(task.n_train))
    if task.mixture is None:
        seen = _few_of(task, n_drawn, recipe.seed, "of train the {} rows that the run sees, by seed")
    else:
        config, sizes = task.mixture.config, task.n_train
        # beyond the cap a source weighs as much as with all of its rows, even if half of them are too long
        wanted = {
            name: max(math.ceil(rate * n_drawn) + 1, 2 * config.cap)
            for name, rate in zip(sizes, config.rates(sizes), strict=True)
        }
        told = "of train {} rows, by seed, which is more than the run sees"
        sources = {name: _few_of(one, wanted[name], recipe.seed, told) for name, one in task.each.items()}
        seen = of_sources(task, sources)
    return task if seen.n_train == task.n_train else _replaying_its_share(seen, recipe)


def _few_of(task: Task, n_seen: int, seed: int, told: str) -> Task:
    """A task whose file is read row by row with only so many training rows, which is `told`; any other as it is."""
    n_rows = len(task.train)
    if not isinstance(task.train, Streamed) or n_seen >= n_rows:
        return task
    places = random.Random(f"seen {seed}").sample(range(n_rows), n_seen)
    detected = f"{task.ledger.detected}; {told.format(n_seen)}"
    return replace(task, train=task.train.only(places), ledger=replace(task.ledger, detected=detected))


def _replaying_its_share(task: Task, recipe: Recipe) -> Task:
    numbers = n_replayed(recipe.data.n_drawn(task.n_train), [each.share for each in recipe.data.replay])
    replayed = tuple(replace(each, examples=each.examples[:n]) for each, n in zip(task.replayed, numbers, strict=True))
    return replace(task, replayed=replayed)


def base_of(recipe: Recipe, known: Bases) -> Base:
    """The base of `recipe`, out of those that are `known`, or loaded and kept there."""
    loading = Loading.of(recipe)
    if loading not in known:
        known[loading] = load_for(recipe.data, recipe.model, recipe.dtype, recipe.head, recipe.quantise)[0]
    return known[loading]


def head_for(task: Task, model_kind: str, model: str, choice: HeadChoice = "auto") -> TaskHead:
    """The head that a base of this kind needs for `task`.

    Where both can be had, a classification is answered in words (a pattern, and label words that the language model
    scores) unless `choice` says "classifier". UserError for a base and a task that do not go together.
    """
    if task.mixture is not None:
        wanted = {name: head_for(each, model_kind, model, choice) for name, each in task.each.items()}
        return _head_for_all(wanted, model)
    if task.reads_images != (model_kind == VISION):
        reads, holds = ("images", "text") if model_kind == VISION else ("text", "images")
        raise UserError(f"{model} reads {reads}, and {task.name} holds {holds}", "choose another model, or other data")
    writes = model_kind in WRITERS
    classifier = CLASSIFIERS.get(task.kind)
    if classifier is None:
        if choice == "classifier" or not writes:
            who = f"{model} is an encoder" if not writes else "head=classifier"
            raise UserError(
                f"{task.name} is {task.kind.replace('_', ' ')}, and {who}, which writes no text",
                "take a decoder or an encoder-decoder with head=lm, or data with a label: data.label=COLUMN",
            )
        return TaskHead()
    if task.kind == "classification" and writes and choice != "classifier":
        return TaskHead()
    if choice == "lm":
        raise UserError(
            f"head=lm does not fit: {task.name} is a {task.kind}, and {model} is of the kind {model_kind}",
            "leave head out, or set head=classifier",
        )
    return TaskHead(classifier, task.labels)


def as_read(task: Task, data: DataConfig, head: TaskHead) -> Task:
    """The task, told what of its templates a classifier on top has no use for."""
    said = dict.fromkeys(
        f"data.{name}"
        for each in data.each.values()
        for name in each.said(("pattern", "words", "prompt", "answer"))
        if name != "prompt" or is_template(each.prompt)
    )
    if head.kind == "lm" or not said:
        return task
    told = f"{task.ledger.detected}; a classifier on top reads the bare columns, and nothing of {', '.join(said)}"
    return replace(task, ledger=replace(task.ledger, detected=told))


def refuse_untrained(data: DataConfig, model_kind: str, head: TaskHead) -> None:
    """UserError where `data.trained_on` names what a base of this kind, with this head, is never trained on."""
    for each in data.each.values():
        if head.kind != "lm" and each.trained_on != "answers":
            raise UserError(f"data.trained_on={each.trained_on}, and a classifier writes no text", "leave it out")
        if model_kind == ENCODER_DECODER and each.trained_on == "everything":
            raise UserError(
                "data.trained_on=everything, and an encoder-decoder writes answers alone, never the prompt it reads",
                "leave it out, or take a decoder",
            )


def _head_for_all(wanted: Mapping[str, TaskHead], model: str) -> TaskHead:
    """The one head that every source of a mixture wants; UserError where they want several."""
    first, *others = wanted
    other = next((name for name in others if wanted[name] != wanted[first]), None)
    if other is not None:
        two = {name: f"{wanted[name].kind} {', '.join(wanted[name].labels)}".rstrip() for name in (first, other)}
        told = "; ".join(f"{name}: {head}" for name, head in two.items())
        raise UserError(
            f"the sources want unlike heads on {model} ({told})",
            "take a decoder or an encoder-decoder with head=lm, which answers all of them in words",
        )
    return wanted[first]
