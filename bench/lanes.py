"""Lanes beside runs in turn: `python -m bench.lanes`, results in bench/results/lanes.json.

Several seeds of LoRA on one shape, as lanes of one batch and one after another, round by round; the figure is the
median of the rounds' ratios of wall time, or with --processor, on a machine that is busy, of processor time. The losses
of both must agree to 1e-4 at every step, or the benchmark fails. With --asked they are not trained but asked so many
dev rows of tasks of `tiny`, in one pass whatever it costs; all answers must be the same. That is printed, not kept.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
import transformers

from bench.kept import keep
from bench.shapes import build, rows
from tunewise.engine.objectives import PackedNextToken
from tunewise.engine.packing import why_not_packed
from tunewise.evaluation.asks import How
from tunewise.evaluation.by_lane import ByLane
from tunewise.evaluation.evaluate import asks_of, prepare
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.methods.lanes import Draws, Lanes
from tunewise.run import build_recipe
from tunewise.run.prepare import load_for
from tunewise.training.config import TrainConfig
from tunewise.training.lane import Training
from tunewise.training.loop import fit
from tunewise.training.together import fit_together

METHODS = [{"name": "lora", "rank": 8}]
MIXED = [  # of the families that share the base's products; as many of each as there are
    {"name": "lora", "rank": 8}, {"name": "lora", "rank": 32}, {"name": "ia3"}, {"name": "bottleneck"},
]  # fmt: skip


def measure(shape: str, batch_size: int, n_lanes: int, methods: list[dict], options: argparse.Namespace) -> dict:
    """The ratio of the time in turn to the time side by side, and the largest difference of a step's losses."""
    config = TrainConfig(
        steps=options.steps, batch_size=batch_size, learning_rate=1e-3, schedule="constant", warmup=0.0,
        evaluate_every=None, checkpoint_every=0,
    )  # fmt: skip
    data = rows(shape, options.steps * batch_size)
    base = build(shape, torch.float32)

    def trainings(folder: Path) -> list[Training]:
        found = []
        for seed in range(n_lanes):
            tuned = attach(base, parse_method(methods[seed % len(methods)]), seed=seed)
            reason = why_not_packed(base, tuned.prefix_ids)
            assert not reason, reason
            objective = PackedNextToken(0, tuned.prefix_ids)
            tuned.detach()
            found.append(Training(tuned, data, config, seed, folder / str(seed), objective))
        return found

    def side_by_side(runs: list[Training]) -> list[list[float]]:
        return [result.losses for result in fit_together(runs)]

    def in_turn(runs: list[Training]) -> list[list[float]]:
        found = []
        for run in runs:
            run.tuned.reattach()
            found.append(fit(**vars(run)).losses)
            run.tuned.detach()
        return found

    clock = time.process_time if options.processor else time.perf_counter
    ratios, gaps = [], []
    for number in range(options.rounds + 1):
        seconds, losses = [], []
        for way in (side_by_side, in_turn):
            with tempfile.TemporaryDirectory() as folder:
                runs = trainings(Path(folder))
                start = clock()
                losses.append(way(runs))
                seconds.append(clock() - start)
        if number:  # the first round warms up
            ratios.append(seconds[1] / seconds[0])
        gaps.append(float((torch.tensor(losses[0]) - torch.tensor(losses[1])).abs().max()))
    assert max(gaps) < 1e-4, f"losses differ by {max(gaps)}"
    tokens = sum(len(row.ids) for row in data) / options.steps
    return {
        "shape": shape, "methods": [method["name"] for method in methods], "lanes": n_lanes, "batch_size": batch_size,
        "tokens_a_batch": round(tokens), "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios], "largest_loss_difference": max(gaps), "steps": options.steps,
    }  # fmt: skip


def asked(task_name: str, n_rows: int, methods: list[dict], options: argparse.Namespace) -> dict:
    """The ratio of the time in turn to the time at once of an evaluation."""
    recipe = build_recipe({"model": "tiny", "data": task_name, "method": "lora"})
    base, task = load_for(recipe.data, recipe.model, recipe.dtype, recipe.head, recipe.quantise)
    base.model.eval()
    tuned = []
    for number in range(options.lanes):
        tuned.append(attach(base.model, parse_method(methods[number % len(methods)]), seed=number))
        tuned[-1].detach()
    questions, how = prepare(base, task, task.dev[:n_rows]), dict.fromkeys(range(options.lanes), How())
    clock, ratios = time.process_time if options.processor else time.perf_counter, []
    with Lanes(tuned, [Draws(0, base.model.device) for _ in tuned]) as lanes:
        ways = ByLane(base, lanes, how), ByLane(base, lanes, how, lambda tokens: ())
        for number in range(options.rounds + 1):
            seconds, answers = [], []
            for way in ways:
                start = clock()
                found = way.answers({lane: asks_of(base, questions) for lane in how})
                seconds.append(clock() - start)
                answers.append([[row["predicted"] for row in each.predictions] for each in found.values()])
            assert answers[0] == answers[1], "lanes answer otherwise together"
            if number:  # the first round warms up
                ratios.append(seconds[1] / seconds[0])
    return {
        "task": task.name, "methods": [method["name"] for method in methods], "lanes": options.lanes, "rows": n_rows,
        "tokens": sum(map(len, questions.prompts)), "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lanes", type=int, default=8)
    parser.add_argument("--batch-sizes", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--shapes", nargs="*", default=["a"])
    parser.add_argument("--processor", action="store_true", help="compare processor time instead of wall time")
    parser.add_argument("--asked", type=int, nargs="*", default=[], help="dev rows; nothing is trained")
    parser.add_argument("--dry", action="store_true", help="print and do not keep")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    for n_rows in options.asked:
        for task_name in ("tiny:sentiment", "tiny:translation"):
            for methods in (METHODS, MIXED):
                print(json.dumps(asked(task_name, n_rows, methods, options)))
    if options.asked:
        return
    found = []
    for shape in options.shapes:
        for batch_size in options.batch_sizes:
            for methods in (METHODS, MIXED):
                found.append(measure(shape, batch_size, options.lanes, methods, options))
                print(json.dumps(found[-1]))
    if options.dry:
        return
    keep("lanes", found)


if __name__ == "__main__":
    main()
