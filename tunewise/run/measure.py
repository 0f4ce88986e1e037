"""Evaluating what is there already: a finished run, an adapter, or a bare base."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from tunewise import files
from tunewise.adapter_folders import CARD, base_named, card_of, find_adapter
from tunewise.config import parse, read_yaml
from tunewise.data.examples import Example
from tunewise.data.found import find
from tunewise.data.in_memory import Data
from tunewise.data.streamed import some_of
from tunewise.data.task import Task
from tunewise.errors import UserError, no_adapter_yet, unknown
from tunewise.evaluation.by_source import examples_by_source
from tunewise.evaluation.evaluate import evaluate_task
from tunewise.evaluation.harness import harness_scores, harness_version
from tunewise.evaluation.own_metrics import without
from tunewise.evaluation.serving import cost_of_a_query
from tunewise.methods.selective.frozen import Frozen
from tunewise.methods.store import load_adapter, read_card
from tunewise.models.load import Base, load_base
from tunewise.run.kept import DRAWS, Kept, kept_in
from tunewise.run.prepare import drawn, fields_of, load_for
from tunewise.run.recipe import Recipe, build_recipe
from tunewise.run.record import ADAPTER, PREDICTIONS, RECIPE

IN_CONTEXT = ("method.balanced", "method.calibration")
READ = ("data", "dtype", "generation", "head", *IN_CONTEXT, "quantise", "seed", "train.packing")
"""Fields of a recipe that an evaluation reads, beside its model."""


def evaluate(
    target: str | Path | None = None,
    *,
    model: str | Base | None = None,
    data: Data | None = None,
    split: str = "test",
    shots: int | None = None,
    limit: int | None = None,
    out: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """`tunewise eval`: a run folder, an adapter folder, or with `model` alone a base, on one split of a task, or all.

    A run is measured as it measured itself (its data, demonstrations and seed) unless told otherwise. `model` may be
    what `load_base` returned, which is as it was afterwards. `overrides` are dotted fields of a recipe that an
    evaluation reads: {"seed": 1, "generation.do_sample": True, "quantise": "nf4"}.
    With `out`, predictions.jsonl and evaluation.json are written there.
    """
    _refuse_counts(shots, limit)
    fields, held = ({}, None) if model is None else fields_of(model)
    overrides = {**{name: value for name, value in fields.items() if name != "model"}, **(overrides or {})}
    asked = asked_of(None if target is None else Path(target), fields.get("model"), data, overrides)
    recipe = asked.recipe
    if target is not None:
        find_rows(recipe, str(target))
    base, task = load_for(
        recipe.data, recipe.model, recipe.dtype, recipe.head, recipe.quantise, held, adapter=asked.adapter
    )
    task = drawn(task, recipe)
    shots = recipe.in_context.shots if shots is None else shots
    examples = _examples(task, split, shots, limit, recipe.data.seed)
    prefix_ids, n_virtual = (), 0
    with ExitStack() as attached:
        if asked.adapter is not None:
            tuned = load_adapter(base.model, asked.adapter, tokenizer=base.tokenizer)
            attached.callback(tuned.detach)
            tuned.model.eval()
            prefix_ids, n_virtual = tuned.prefix_ids, tuned.method.virtual_positions(tuned.anatomy)
        found = evaluate_task(
            base, task, examples, prefix_ids=prefix_ids, shots=shots, seed=recipe.seed, asking=recipe.asking
        )
    summary = {
        "task": task.name,
        "model": recipe.model,
        "adapter": None if asked.adapter is None else str(asked.adapter),
        "split": split,
        "shots": shots,
        "calibration": recipe.in_context.calibration,
        "seed": recipe.seed,
        "generation": recipe.generation.model_dump(mode="json"),
        "limit": limit,
        "n_examples": len(examples),
        "n_dropped_demonstrations": found.n_dropped,
        "n_truncated_prompts": found.n_truncated,
        **cost_of_a_query(found, n_virtual),
        "metrics": found.metrics,
    }
    if out is not None:
        _write(Path(out), found.predictions, summary)
    return summary


def find_rows(recipe: Recipe, target: str) -> None:
    """UserError where a file of rows is not there, as in a copy of a run on another machine."""
    for name, each in recipe.data.each.items():
        try:
            find(each.path)
        except UserError as error:
            field = f"data.mixture.sources.{name}.path" if name else "data.path"
            raise UserError(
                f"{error.message}, whose rows {target} is asked",
                f"say where they lie, {field}=FILE, or give others: --data FILE",
            ) from None


def _refuse_counts(shots: int | None, limit: int | None) -> None:
    """UserError for numbers of rows that are none."""
    if shots is not None and shots < 0:
        raise UserError(f"shots={shots} are no demonstrations", "give 0, or how many of the training rows to show")
    if limit is not None and limit < 1:
        raise UserError(f"limit={limit} leaves no row to ask", "give 1 or more, or leave it out")


def _examples(task: Task, split: str, shots: int, limit: int | None, seed: int) -> list[Example]:
    """The rows of a split, or of all, that are asked: at most so many, of a mixture of each source, drawn as
    `data.test` draws them."""
    splits = {"train": [task.train], "dev": [task.dev], "test": [task.test], "all": [task.train, task.dev, task.test]}
    if split not in splits:
        raise unknown("split", split, splits)
    if split == "all" and shots:
        raise UserError("demonstrations are drawn from train, and split=all asks its rows too", "choose another split")
    parts = splits[split]
    every = parts[0] if len(parts) == 1 else tuple(chain.from_iterable(parts))
    if task.mixture is None:
        return list(some_of(every, limit, seed))
    by_source = examples_by_source(task, list(every)).values()
    return [example for of_source in by_source for example in some_of(of_source, limit, seed)]


def evaluate_with_harness(
    target: str | Path | None,
    tasks: Sequence[str],
    *,
    model: str | None = None,
    tasks_folder: str | Path | None = None,
    shots: int | None = None,
    limit: int | None = None,
    out: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """`tunewise eval --harness`: a run folder, an adapter folder, or with `model` alone a base, on tasks of
    lm-evaluation-harness, as `harness_scores` asks them.

    `tasks_folder` holds task files of one's own. With `out`, predictions.jsonl and evaluation.json are written there.
    """
    _refuse_counts(shots, limit)
    asked = asked_of(None if target is None else Path(target), model, f"harness:{','.join(tasks)}", overrides or {})
    recipe = asked.recipe
    base = load_base(recipe.model, recipe.dtype, quantise=recipe.quantise)
    prefix_ids: tuple[int, ...] = ()
    if asked.adapter is not None:
        tuned = load_adapter(base.model, asked.adapter, tokenizer=base.tokenizer)
        prefix_ids = tuned.prefix_ids
    base.model.eval()
    found = harness_scores(
        base, tasks, prefix_ids=prefix_ids, include_path=tasks_folder, limit=limit, shots=shots,
        packing=recipe.train.packing,
    )  # fmt: skip
    items = [{"task": task, **item} for task, scores in found.items() for item in scores.pop("items", [])]
    summary = {
        "harness": harness_version(),
        "model": recipe.model,
        "adapter": None if asked.adapter is None else str(asked.adapter),
        "shots": shots,
        "limit": limit,
        "tasks": found,
    }
    if out is not None:
        _write(Path(out), items, summary)
    return summary


def _write(out: Path, rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> None:
    files.write_jsonl(out / PREDICTIONS, rows)
    files.write_json(out / "evaluation.json", summary)


@dataclass(frozen=True)
class Asked:
    """What is to be evaluated on what."""

    recipe: Recipe
    adapter: Path | None
    kept: Kept | None = None
    """How its task is asked, where that is known without the task's rows and nothing else is wanted."""


def asked_of(target: Path | None, model: str | None, data: Data | None, overrides: Mapping[str, Any]) -> Asked:
    """A run folder, an adapter folder, or a bare base, as one thing; UserError where something is missing."""
    for field in overrides:
        if not f"{field}.".startswith(tuple(f"{read}." for read in READ)):
            raise UserError(f"{field} changes nothing in an evaluation", f"what it reads is {', '.join(READ)}")
    given = {name: value for name, value in (("model", model), ("data", data)) if value is not None}
    if target is not None and (target / RECIPE).is_file():
        recipe = parse(Recipe, read_yaml(target / RECIPE), where=str(target / RECIPE))
        fields = recipe.model_dump(mode="json")
        adapter = target / ADAPTER if (target / ADAPTER).is_dir() else None
        if adapter is None and not isinstance(recipe.method, Frozen):
            raise no_adapter_yet(target)
        # metrics that are named anew are not those that the folder names
        named = fields["data"] | ({"metrics": None} if "data.metrics" in overrides else {})
        recipe = build_recipe({**fields, **({"data": without(named)} | given)}, overrides)
        return Asked(recipe, adapter, _kept(target, adapter, recipe, [*given, *overrides]))
    if target is None:
        if model is None or data is None:
            raise UserError(
                "nothing to evaluate", "give a run or adapter folder, or --model tiny --data tiny:sentiment"
            )
        return Asked(build_recipe({"method": "frozen", **given}, overrides), None)
    target = find_adapter(target)
    card = read_card(target) if (target / CARD).is_file() else {"base": {}, "notes": {}}
    noted = {"model": base_named(card_of(target)), "data": card["notes"].get("data")}
    fields = {**{name: value for name, value in noted.items() if value}, **given}
    for name, of_what, wanted in (("model", "base", "--model NAME_OR_FOLDER"), ("data", "data", "--data FILE")):
        if name not in fields:
            raise UserError(f"{target} does not say which {of_what} it belongs to", f"add {wanted}")
    fields |= {"dtype": card.get("dtype", "auto"), "head": card["notes"].get("head", "auto")}
    fields |= {"quantise": card["base"].get("quantise", ""), "method": "frozen"}
    recipe = build_recipe(fields, overrides)
    return Asked(recipe, target, _kept(None, target, recipe, [*given, *overrides]))


def _kept(run: Path | None, adapter: Path | None, recipe: Recipe, said: Sequence[str]) -> Kept | None:
    """How the task is asked as these folders have it; None where these fields that were `said` want it otherwise."""
    otherwise = any(name.partition(".")[0] == "data" for name in said)
    others = recipe.in_context.shots and any(name in DRAWS for name in said)
    return None if otherwise or others else kept_in(run, adapter)
