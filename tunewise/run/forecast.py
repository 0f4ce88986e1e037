"""A forecast: a few steps and questions of a run, in a folder that is thrown away, to tell what all would cost."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from tunewise.data.examples import Example
from tunewise.data.task import Task
from tunewise.data.token_store import lengths
from tunewise.files import read_jsonl
from tunewise.models.load import Base
from tunewise.run.carry_out import Run
from tunewise.run.longest_batch import BYTES_AT_MOST
from tunewise.run.prepare import drawn, load_for
from tunewise.run.recipe import Recipe
from tunewise.training.config import TrainConfig
from tunewise.training.loop import LOG, fit_alone
from tunewise.training.memory import Peak
from tunewise.training.proofs import check_longest_batch

N_STEPS = 4
"""Of which the first warms up and is not counted."""
N_QUESTIONS = 64


@dataclass(frozen=True)
class Forecast:
    """What one run, carried out alone, would cost; all of it measured, and that of steps and questions scaled up."""

    n_trainable: int
    adapter_bytes: int
    n_steps: int
    train_seconds: float
    dev_seconds: float
    """For one look at all of dev."""
    n_looks: int
    """At dev, while training."""
    test_seconds: float
    begin_seconds: float
    """Attaching, reading the rows, and the proofs before the first step."""
    end_seconds: float
    """Saving, retention, and the proofs behind the last step."""
    peak_bytes: int

    @property
    def seconds(self) -> float:
        """Of a whole run."""
        looks = self.n_looks * self.dev_seconds
        return self.begin_seconds + self.train_seconds + looks + self.test_seconds + self.end_seconds

    def trial_seconds(self, share: float) -> float:
        """Of a trial that goes on for a `share` of the steps and is scored on dev."""
        return self.begin_seconds + share * self.train_seconds + self.dev_seconds


def forecast(recipe: Recipe, base: Base) -> Forecast:
    """Carry out a few steps, and ask a few questions of dev in the place of test, which is not read.

    UserError where the run itself would be refused, as when its longest batch does not fit into memory.
    """
    _, task = load_for(recipe.data, recipe.model, recipe.dtype, recipe.head, recipe.quantise, base)
    task = drawn(task, recipe)
    few = _few(task)
    peak, start = Peak(base.model.device), time.perf_counter()
    with TemporaryDirectory() as folder:
        run = Run(recipe, Path(folder), base, replace(task, dev=few, test=few))
        try:
            run.begin("")
            n_steps = recipe.train.n_steps(run.sources.n) if run.rows else 0
            part = replace(run.training(None), dev_score=None, until=min(1.0, N_STEPS / max(1, n_steps)))
            begun = time.perf_counter()
            if run.rows and BYTES_AT_MOST in run.proofs["longest_batch_fits"]:  # and so it was not tried
                check_longest_batch(run.tuned, run.rows, recipe.train, run.route.objective)
            result = fit_alone(part) if run.rows else None
            trained = time.perf_counter()
            metrics = run.finish(result, peak)
            ended = time.perf_counter()
        finally:
            run.tuned.detach()
        steps = list(read_jsonl(Path(folder) / LOG)) if run.rows else []
    a_question = metrics["spent"]["evaluation"] / (2 * len(few))  # asked once as dev, once as test
    n_prefix = len(recipe.method.prefix_ids(base.anatomy))
    return Forecast(
        n_trainable=run.tuned.n_trainable,
        adapter_bytes=metrics["adapter_bytes"],
        n_steps=n_steps,
        train_seconds=_seconds_a_token(steps) * _n_tokens(run, n_prefix),
        dev_seconds=a_question * len(task.dev),
        n_looks=_n_looks(recipe.train, run.sources.n, n_steps),
        test_seconds=a_question * len(task.test),
        begin_seconds=begun - start,
        end_seconds=ended - trained - metrics["spent"]["evaluation"],
        peak_bytes=metrics["peak_bytes"],
    )


def _few(task: Task) -> tuple[Example, ...]:
    """Questions of dev, or of train where there is none: of a mixture from all its sources."""
    part = task.dev or task.train
    every = max(1, len(part) // N_QUESTIONS) if task.mixture else 1
    return tuple(part[::every][:N_QUESTIONS])


def _seconds_a_token(steps: Sequence[object]) -> float:
    timed = [step["seconds"] / step["tokens"] for step in steps[1:] or steps if isinstance(step, dict)]
    return median(timed) if timed else 0.0


def _n_tokens(run: Run, n_prefix: int) -> float:
    """That all steps see, prefixes included."""
    if not run.rows:
        return 0.0
    n_drawn = run.recipe.train.n_drawn(run.sources.n)
    mean = float(lengths(run.rows).mean())
    own = sum(row["tokens"] for row in run.mixture) if run.mixture else mean * n_drawn
    return own + n_prefix * n_drawn


def _n_looks(config: TrainConfig, n_rows: int, n_steps: int) -> int:
    if not n_steps or config.evaluate_every is None:
        return 1  # at what is kept
    every = max(1, round(config.evaluate_every * config.steps_per_epoch(n_rows)))
    return math.ceil(n_steps / every)
