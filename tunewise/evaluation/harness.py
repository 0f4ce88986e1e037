"""Benchmarks of lm-evaluation-harness, MMLU and BIG-bench Hard among them, on a base with whatever is attached to it.

The harness (extra `eval`) holds the tasks, their prompts and their metrics; our engine answers. Figures are the
harness's own: shares from 0 to 1, perplexities, and so on.
"""

import os
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tunewise.errors import UserError, missing, nearest
from tunewise.models.families import DECODER
from tunewise.models.load import Base

INSTALL = "pip install 'tunewise[eval]'"
SEED, SHOTS_SEED = 1234, 1234
"""The harness's own: of what its tasks draw, and of which demonstrations they show."""
RESAMPLES = 1_000
"""Of the bootstrap behind the standard errors that have no formula."""


def harness_scores(
    base: Base,
    tasks: Sequence[str],
    *,
    prefix_ids: Sequence[int] = (),
    include_path: str | Path | None = None,
    limit: int | None = None,
    shots: int | None = None,
    packing: bool = True,
) -> dict[str, dict[str, Any]]:
    """Task (or group of tasks) -> its metrics by name, with `NAME_stderr` where the harness gives one.

    Of a task also `n`, how many items were asked, and `items`: one {id, target, answer, metrics...} each. `base` must
    be in evaluation mode; `prefix_ids` are the virtual tokens of a soft prompt. `include_path` is a folder of task
    files (yaml) that are known beside the harness's own; `limit` takes the first items of each task; `shots` goes
    before the tasks' own numbers of demonstrations. UserError where the harness is not installed, for tasks that it
    does not know or whose rows cannot be had, and for models that write no text by themselves.
    """
    if base.head.kind != "lm" or base.tokenizer is None or base.anatomy.kind != DECODER:
        raise UserError(
            f"{base.name} is no decoder with its language-model head, which is what the harness asks",
            "evaluate it on a task: --data glue:rte",
        )
    try:
        from lm_eval.evaluator import evaluate as carry_out

        from tunewise.evaluation.harness_model import HarnessModel
    except ImportError as error:
        raise UserError(f"the package lm_eval cannot be imported: {error}", INSTALL) from None
    model, manager = HarnessModel(base, prefix_ids, packing=packing), _manager_for(tasks, include_path)
    try:
        with _apart():
            chosen = manager.load(list(tasks))
            for task in chosen["tasks"].values():
                _set_shots(task, shots)
            found = carry_out(lm=model, task_dict=chosen, limit=limit, bootstrap_iters=RESAMPLES, log_samples=True)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"the harness cannot carry out {', '.join(tasks)}: {' '.join(str(error).split())[:300]}",
            "without a network, write task files with local rows: --harness-tasks FOLDER",
        ) from error
    assert found is not None
    return {task: _told(task, found) for task in found["results"]}


@contextmanager
def _apart() -> Iterator[None]:
    """Seeds as the harness sets them, put back behind it; what it prints goes to standard error; and no pool of
    processes, each with a torch of its own, for a bootstrap."""
    states, kept = (random.getstate(), np.random.get_state()), os.environ.get("DISABLE_MULTIPROC")
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        with torch.random.fork_rng(devices=[]), redirect_stdout(sys.stderr):
            random.seed(SEED)
            np.random.seed(SEED)
            torch.manual_seed(SEED)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        if kept is None:
            del os.environ["DISABLE_MULTIPROC"]
        else:
            os.environ["DISABLE_MULTIPROC"] = kept


def _set_shots(task: Any, shots: int | None) -> None:
    """Demonstrations as asked, or as the task says; a task that says 0 cannot show any."""
    own = task.get_config("num_fewshot")
    if own is None or (own != 0 and shots is not None):
        task.set_config(key="num_fewshot", value=shots or 0)
    task.set_fewshot_seed(seed=SHOTS_SEED)


def harness_version() -> str:
    """The version of the harness that is installed; its figures may differ between versions."""
    return version("lm_eval")


def _manager_for(tasks: Sequence[str], include_path: str | Path | None) -> Any:
    """What knows the tasks: those of `include_path` alone, where they are enough, since the harness's own take seconds
    to be listed."""
    from lm_eval.tasks import TaskManager

    known: list[str] = []
    if include_path is not None:
        if not Path(include_path).is_dir():
            raise missing(include_path)
        manager = TaskManager(include_path=str(include_path), include_defaults=False)
        known = manager.all_tasks
        if all(task in known for task in tasks):
            return manager
    manager = TaskManager(include_path=None if include_path is None else str(include_path))
    for task in tasks:
        if task not in manager.all_tasks:
            guess = nearest(task, manager.all_tasks)
            listing = f"in {include_path}: {', '.join(known) or 'no task at all'}" if include_path else ""
            hint = (f"did you mean {guess!r}? " if guess else "") + (listing or "lm_eval ls tasks lists them all")
            raise UserError(f"the harness has no task named {task!r}", hint)
    return manager


def _told(task: str, found: dict[str, Any]) -> dict[str, Any]:
    """The metrics of one task or group under plain names: a filter other than "none" is written behind a comma."""
    scores: dict[str, Any] = {}
    for key, value in found["results"][task].items():
        name, _, of_filter = key.partition(",")
        if of_filter and isinstance(value, int | float | np.number):
            scores[name if of_filter == "none" else f"{name},{of_filter}"] = float(value)
    if task not in found.get("samples", {}):
        return scores
    items = [_item(row) for row in found["samples"][task]]
    return {**scores, "n": found["n-samples"][task]["effective"], "items": items}


def _item(row: dict[str, Any]) -> dict[str, Any]:
    metrics = {name: _plain(row[name]) for name in row["metrics"]}
    of_filter = {} if row["filter"] == "none" else {"filter": row["filter"]}
    return {"id": row["doc_id"], "target": row["target"], "answer": row["filtered_resps"], **of_filter, **metrics}


def _plain(value: object) -> object:
    """numpy's numbers as Python's."""
    return value.item() if isinstance(value, np.generic) else value
