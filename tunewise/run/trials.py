"""Trials: recipes carried to a share of their steps and looked at on dev, for a search; their task holds no test row.

    recipe.yaml env.json ledger.json log.jsonl checkpoints/ trial.json

A trial follows the schedule of its whole length, stops with a checkpoint, and goes on from there, so what it is at a
rung is what the whole run would be at that step. Before the end its loss on dev is measured, which tells trials apart
long before their answers are right, and costs no generation; at the end the task's metric.
"""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunewise import files
from tunewise.errors import UserError
from tunewise.evaluation.asks import Asks
from tunewise.methods.alone import CannotShare
from tunewise.models.load import Base
from tunewise.run import record
from tunewise.run.asked_together import asked_together
from tunewise.run.carry_out import Run
from tunewise.run.prepare import drawn, load_for
from tunewise.run.recipe import Recipe
from tunewise.training import checkpoint
from tunewise.training.lane import Diverged, FitResult, Training
from tunewise.training.loop import CHECKPOINTS, fit_alone
from tunewise.training.progress import AsOne, Watcher
from tunewise.training.together import fit_together

logger = logging.getLogger(__name__)

TRIAL = "trial.json"
TrialOutcome = dict[str, Any] | Diverged
"""The content of trial.json, or what ended the trial. `rungs` have share, step, loss on dev (nats per label token; None
where it is not finite, or nothing is trained), dev score (higher is better; None before the end), and seconds."""

Score = tuple[float | None, float | None]
"""Loss and score on dev, None where that is not measured."""


def advance(
    recipes: Sequence[Recipe], folders: Sequence[Path], base: Base, share: float, progress: Watcher | None = None
) -> list[TrialOutcome]:
    """Bring trials on one base to `share` of their steps, several as lanes of one batch, and look at each on dev.

    A trial that has been there is not carried out again, nor one that diverged. Raises UserError where the task has no
    dev rows or its file has changed, Held where another process is at one of them, and Interrupted with a checkpoint of
    each.
    """
    with ExitStack() as locks:
        for folder in folders:
            locks.enter_context(record.alone(folder))
        found = {number: known(recipe, folders[number], share) for number, recipe in enumerate(recipes)}
        left = [number for number, outcome in found.items() if outcome is None]
        if len(left) == 1:
            found[left[0]] = _alone(recipes[left[0]], folders[left[0]], base, share, progress)
        elif left:
            of_left = [recipes[number] for number in left], [folders[number] for number in left]
            found |= dict(zip(left, _together(*of_left, base, share, progress), strict=True))
    return [outcome for outcome in found.values() if outcome is not None]


def put_away(folder: Path) -> None:
    """Remove the checkpoints of a trial that is not to go on."""
    checkpoint.remove(folder / CHECKPOINTS)


def known(recipe: Recipe, folder: Path, share: float) -> TrialOutcome | None:
    """What is written of a trial at this share of its steps; None where it has not come so far."""
    content = _read(folder)
    if not content:
        return None
    if content["data_sha256"] != record.digest_of(recipe):
        raise record.changed_since(recipe, folder)
    if content["diverged"]:
        return Diverged(content["diverged"]["reason"], content["diverged"]["hint"])
    # what trains nothing has one score, whatever the share
    is_there = content["n_steps"] == 0 or any(rung["share"] == share for rung in content["rungs"])
    return content if is_there else None


def _read(folder: Path) -> dict[str, Any]:
    return record.mapping(folder / TRIAL) if (folder / TRIAL).is_file() else {}


def _begun(recipe: Recipe, folder: Path, base: Base, share: float, *, beside_others: bool) -> Run:
    _, task = load_for(recipe.data, recipe.model, recipe.dtype, recipe.head, recipe.quantise, base)
    if not task.dev:
        raise UserError(
            f"{task.name} has no dev rows, and a search chooses by them",
            "add a dev file to its folder, name one file to be split, or search nothing: trials=1",
        )
    if any(rung["share"] > share for rung in _read(folder).get("rungs", ())):  # by other rungs: it begins anew
        put_away(folder)
    of_trial = replace(drawn(task, recipe), test=task.dev)  # nothing of test is there to be read
    run = Run(recipe, folder, base, of_trial)
    try:
        run.begin(record.digest_of(recipe), beside_others=beside_others)
    except BaseException:
        run.tuned.detach()
        raise
    return run


def _alone(recipe: Recipe, folder: Path, base: Base, share: float, progress: Watcher | None) -> TrialOutcome:
    start = time.perf_counter()
    run = _begun(recipe, folder, base, share, beside_others=False)
    try:
        result = fit_alone(_part(run, share, progress)) if run.rows else None
        return _scored(run, result, share, start, run.answers.alone(_asks(run, result, share)))
    except Diverged as error:
        return _lost(run, error)
    finally:
        run.tuned.detach()


def _together(
    recipes: Sequence[Recipe], folders: Sequence[Path], base: Base, share: float, progress: Watcher | None
) -> list[TrialOutcome]:
    """Trials as lanes of one batch; one after another where a look at a few rows finds that they cannot share it."""
    seconds, runs = [0.0] * len(recipes), []
    for number, (recipe, folder) in enumerate(zip(recipes, folders, strict=True)):
        start = time.perf_counter()
        runs.append(_begun(recipe, folder, base, share, beside_others=True))
        runs[-1].tuned.detach()
        seconds[number] = time.perf_counter() - start
    start = time.perf_counter()
    watcher = None if progress is None else AsOne(progress, len(runs))
    try:
        results: Sequence[FitResult | Diverged | None] = fit_together([_part(run, share, watcher) for run in runs])
    except CannotShare as reason:
        logger.info("one by one: %s", reason.message)
        results = [None] * len(runs)
    taken, found = time.perf_counter() - start, []
    n_tokens = sum(result.tokens for result in results if isinstance(result, FitResult))
    start = time.perf_counter()
    trained = {number: result for number, result in enumerate(results) if isinstance(result, FitResult)}
    scores = asked_together({i: runs[i] for i in trained}, lambda i, run: _asks(run, trained[i], share))
    taken_by_scores = (time.perf_counter() - start) / max(1, len(trained))
    for number, (run, result, own) in enumerate(zip(runs, results, seconds, strict=True)):
        start = time.perf_counter() - own
        run.tuned.reattach()
        try:
            if isinstance(result, Diverged):
                raise result
            if result is None:
                result = fit_alone(_part(run, share, progress))
            else:
                start -= taken * result.tokens / max(1, n_tokens) + taken_by_scores
            score = scores.get(number) or run.answers.alone(_asks(run, result, share))
            found.append(_scored(run, result, share, start, score))
        except Diverged as error:
            found.append(_lost(run, error))
        finally:
            run.tuned.detach()
    return found


def _part(run: Run, share: float, progress: Watcher | None) -> Training:
    """The training up to that share; dev is looked at there and not before."""
    return replace(run.training(progress), dev_score=None, until=share)


def _asks(run: Run, result: FitResult | None, share: float) -> Asks[Score]:
    """What a trial is asked at a rung."""
    loss = dev = None
    if result is not None:
        loss = yield from run.dev_loss()
    if result is None or share == 1:
        dev = yield from run.answers.dev_score()
    return loss, dev


def _scored(run: Run, result: FitResult | None, share: float, start: float, score: Score) -> dict[str, Any]:
    """Write down how the state that `run` holds scores; `start` is when the seconds of this rung began."""
    content = _content(run)
    step = 0 if result is None else result.steps
    loss, dev = score
    seconds = round(time.perf_counter() - start, 3)
    rungs = [rung for rung in content["rungs"] if rung["share"] != share]
    told = None if loss is None or not math.isfinite(loss) else loss
    rungs.append({"share": share, "step": step, "loss": told, "dev": dev, "seconds": seconds})
    n_steps = 0 if result is None else result.n_steps
    return _written(run.out, {**content, "n_steps": n_steps, "rungs": sorted(rungs, key=lambda rung: rung["share"])})


def _lost(run: Run, error: Diverged) -> Diverged:
    _written(run.out, {**_content(run), "diverged": {"reason": error.message, "hint": error.hint}})
    return error


def _content(run: Run) -> dict[str, Any]:
    new = {"data_sha256": record.digest_of(run.recipe), "n_steps": None, "rungs": [], "diverged": None}
    return _read(run.out) or new


def _written(folder: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    files.write_json(folder / TRIAL, content)
    return dict(content)
