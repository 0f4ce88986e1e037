"""Recipes of one base carried out side by side: those that share a batch are trained together.

Each has its own folder, with what is in it when it is carried out alone; its figures are the same but for rounding.
"""

import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tunewise.data.task import Task
from tunewise.data.token_store import lengths
from tunewise.engine.fused import held
from tunewise.methods.alone import CannotShare
from tunewise.methods.attach import count
from tunewise.models.load import Base
from tunewise.models.quantise import why_rows_mix
from tunewise.run import record
from tunewise.run.answers import AtTheEnd
from tunewise.run.asked_together import AskedTogether, asked_together
from tunewise.run.carry_out import Run
from tunewise.run.ended import done
from tunewise.run.prepare import drawn, load_for
from tunewise.run.recipe import Recipe
from tunewise.run.training_rows import training_rows
from tunewise.training.lane import Diverged, FitResult
from tunewise.training.loop import fit_alone
from tunewise.training.memory import Peak
from tunewise.training.progress import AsOne, Watcher
from tunewise.training.sharing import Demand, Sharing, demand, share
from tunewise.training.together import fit_together

logger = logging.getLogger(__name__)


def plan(recipes: Sequence[Recipe], base: Base, workers: int = 1) -> Sharing:
    """Which of these recipes share batches over `base`, by number, and why; nothing is trained or written.

    With several `workers`, each takes a group, or a run, at a time.
    """
    demands: dict[int, Demand] = {}
    reasons: dict[int, str] = {}
    known: dict[tuple[str, int], list[int]] = {}
    for number, recipe in enumerate(recipes):
        reasons[number] = _why_alone(recipe, base)
        if reasons[number]:
            continue
        key = recipe.data.model_dump_json(), recipe.train.max_length
        if key not in known:
            known[key] = lengths_of(recipe, base)
        of_rows = known[key]
        if not of_rows:
            reasons[number] = "one by one: its data have no row for this base"
            continue
        mean = sum(of_rows) / len(of_rows) + len(recipe.method.prefix_ids(base.anatomy))
        found = demand(base.model, recipe.method, mean * min(recipe.train.batch_size, len(of_rows)))
        if found.lowest and recipe.train.trunk != "live":
            reasons[number] = f"one by one: the {found.lowest} layers below what it trains run once for each row"
        else:
            demands[number] = found
    numbers = list(demands)
    shared = share(list(demands.values()), base.model, workers)
    groups = tuple(tuple(numbers[index] for index in group) for group in shared.groups)
    return Sharing(groups, reasons | {numbers[index]: reason for index, reason in shared.reasons.items()})


def _why_alone(recipe: Recipe, base: Base) -> str:
    if not recipe.train.lanes:
        return "one by one: train.lanes=false"
    if base.tokenizer is None:
        return "one by one: it reads images"
    if recipe.train.checkpointing:
        return "one by one: train.checkpointing=true"
    if reason := why_rows_mix(base.quantise):
        return f"one by one: {reason}"
    return "" if count(base.model, recipe.method) else "one by one: it trains nothing"


def _task(recipe: Recipe, base: Base) -> tuple[Base, Task]:
    found, task = load_for(recipe.data, recipe.model, recipe.dtype, recipe.head, recipe.quantise, base)
    return found, drawn(task, recipe)


def lengths_of(recipe: Recipe, base: Base) -> list[int]:
    """Tokens of each training row; none where the data want another head than that of `base`."""
    found, task = _task(recipe, base)
    if found is not base:
        return []
    return lengths(training_rows(base, task, recipe.train.max_length).rows).tolist()


def run_together(
    recipes: Sequence[Recipe], folders: Sequence[Path], base: Base, progress: Watcher | None = None
) -> list[dict[str, Any] | Diverged]:
    """Carry recipes of one base out into their folders, as lanes of one batch; the content of each metrics.json.

    Reloads are left to `add_reload_proof`. Where a trial finds that they cannot share a batch, they are trained one
    after another, and `logging` tells why. What the joint training took is told as each run's share by tokens; the
    memory is that of all. A run that diverges is not done: its error stands in the place of its metrics, and the others
    go on. Raises as `run` does for everything else; on Ctrl-C every run leaves a checkpoint.
    """
    with ExitStack() as locks:
        for folder in folders:
            locks.enter_context(record.alone(folder))
        locks.enter_context(held(base.model))
        return _together(recipes, folders, base, progress)


def _together(
    recipes: Sequence[Recipe], folders: Sequence[Path], base: Base, progress: Watcher | None
) -> list[dict[str, Any] | Diverged]:
    peak, seconds, runs = Peak(base.model.device), [0.0] * len(recipes), []
    for number, (recipe, folder) in enumerate(zip(recipes, folders, strict=True)):
        start = time.perf_counter()
        runs.append(_begun(recipe, folder, base))
        seconds[number] += time.perf_counter() - start
    start = time.perf_counter()
    watcher = None if progress is None else AsOne(progress, len(runs))
    try:
        trainings, scores = [run.training(watcher) for run in runs], AskedTogether(runs).dev_scores
        results: Sequence[FitResult | Diverged | None] = fit_together(trainings, scores)
    except CannotShare as reason:
        logger.info("one by one: %s", reason.message)
        results = [None] * len(runs)
    taken = time.perf_counter() - start
    n_tokens = sum(result.tokens for result in results if isinstance(result, FitResult))
    start = time.perf_counter()
    trained = {number: result for number, result in enumerate(results) if isinstance(result, FitResult)}
    answered = asked_together({i: runs[i] for i in trained}, lambda i, run: run.answers.all_at_the_end(trained[i]))
    taken_by_answers = (time.perf_counter() - start) / max(1, len(trained))
    found: list[dict[str, Any] | Diverged] = []
    for number, (run, result, own) in enumerate(zip(runs, results, seconds, strict=True)):
        start = time.perf_counter()
        try:
            if isinstance(result, Diverged):
                raise result
            metrics = _finished(run, result, peak, progress, answered.get(number))
        except Diverged as error:
            found.append(error)
            continue
        if result is not None:
            own += taken * result.tokens / max(1, n_tokens) + taken_by_answers
        metrics["seconds"] = round(metrics["seconds"] + own + time.perf_counter() - start, 3)
        done(run.out, run.recipe, metrics)
        found.append(metrics)
    return found


def _begun(recipe: Recipe, folder: Path, base: Base) -> Run:
    """A run up to its training, its method detached again."""
    run = Run(recipe, folder, base, _task(recipe, base)[1])
    try:
        run.begin(record.digest_of(recipe), beside_others=True)
    finally:
        run.tuned.detach()
    return run


def _finished(
    run: Run, result: FitResult | None, peak: Peak, progress: Watcher | None, answers: AtTheEnd | None
) -> dict[str, Any]:
    """What follows the training, which is done here where there is no result of it yet."""
    run.tuned.reattach()
    try:
        if result is None:
            metrics = run.finish(fit_alone(run.training(progress)), peak)
        else:
            metrics = run.finish(result, peak, answers)
    finally:
        run.tuned.detach()
    if result is not None:
        metrics["peak_measure"] = result.peak_measure
    return metrics
