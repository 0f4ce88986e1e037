"""Training above a frozen trunk beside Trainer: `python -m bench.trunk`, results in bench/results/trunk.json.

Several epochs over the same rows: the head alone on a BERT-shaped classifier, and the top two layers of a Llama of
twelve. The peer is `transformers.Trainer` at its defaults, in float32, with `requires_grad` off below; ours is timed
from the choice of the route on, the one pass through the trunk included; `live` is ours with train.trunk=live.
All take the same steps from the same weights, in turn, round by round, the peer in a process of its own; the figure is
the median of the rounds' ratios.
float32 losses must agree to 1e-3 at every step, or the benchmark fails.
"""

import argparse
import json
import statistics
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers

from bench import peer
from bench.beside import SERVE, Side, serve
from bench.kept import keep_again
from bench.shapes import SHAPES, as_base, build, rows
from bench.training import TOLERANCE, Work, timed
from tunewise.data.encode import Encoded
from tunewise.engine.batches import epoch_batches
from tunewise.engine.from_trunk import How, route_for
from tunewise.engine.objectives import objective_for
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.models.precision import choose_dtype
from tunewise.training.config import TrainConfig
from tunewise.training.loop import fit

METHODS = {"head": {"name": "head"}, "top 2 layers": {"name": "top_layers", "layers": 2}}
WORKS = [
    Work(shape, method, dtype) for shape, method in (("c", "head"), ("b12", "top 2 layers")) for dtype in TOLERANCE
]


def task_of(work: Work, epochs: int, batches: int) -> tuple[TrainConfig, list[Encoded]]:
    """How long, and on what."""
    batch_size = SHAPES[work.shape].batch_size
    config = TrainConfig(
        steps=epochs * batches, batch_size=batch_size, learning_rate=1e-3 if work.method == "head" else 1e-4,
        schedule="constant", warmup=0.0, evaluate_every=None, checkpoint_every=0,
    )  # fmt: skip
    return config, rows(work.shape, batches * batch_size)


def ours(work: Work, epochs: int, batches: int, how: How) -> tuple[float, list[float]]:
    """Seconds and losses of tunewise."""
    config, data = task_of(work, epochs, batches)
    tuned = attach(build(work.shape, getattr(torch, work.dtype)).eval(), parse_method(METHODS[work.method]))
    base = as_base(tuned.model, work.shape)

    def train() -> list[float]:
        objective = objective_for(base, packing=True)
        assert objective.layout == "packed"
        route = route_for(tuned, objective, data, how, group_size=config.batch_size, passes=epochs)
        assert (how == "live") == bool(route.reason), route.reason
        with tempfile.TemporaryDirectory() as folder:
            return fit(tuned, data, config, seed=0, folder=Path(folder), objective=route.objective).losses

    return timed(train)


def theirs(work: Work, epochs: int, batches: int) -> tuple[float, list[float]]:
    """Seconds and losses of Trainer."""
    config, data = task_of(work, epochs, batches)
    orders = [epoch_batches(len(data), config.batch_size, 0, epoch) for epoch in range(epochs)]
    in_order = [data[i] for order in orders for batch in order for i in batch]
    tuned = attach(build(work.shape, torch.float32), parse_method(METHODS[work.method]))
    model = peer.adapted(build(work.shape, torch.float32), tuned)
    return timed(lambda: peer.trained(model, in_order, config)[1])


def answer(question: tuple[dict[str, str], int, int]) -> tuple[float, list[float]]:
    """What the peer's process is asked."""
    told, epochs, batches = question
    return theirs(Work(**told), epochs, batches)


def measure(work: Work, epochs: int, batches: int, rounds: int) -> dict[str, Any]:
    """The ratio of our speed to the peer's, with the trunk cached and live, and the largest difference of losses."""
    ratios, of_live, gaps = [], [], []
    with Side("bench.trunk") as them:
        for _ in range(rounds):
            cached, losses = ours(work, epochs, batches, "auto")
            live, live_losses = ours(work, epochs, batches, "live")
            their, their_losses = them.ask([asdict(work), epochs, batches])
            ratios.append(their / cached)
            of_live.append(their / live)
            gaps += [abs(a - b) for a, b in zip(losses, their_losses, strict=True)]
            gaps += [abs(a - b) for a, b in zip(live_losses, their_losses, strict=True)]
    assert max(gaps) < TOLERANCE[work.dtype], f"{work}: losses differ by {max(gaps)}"
    return {
        **asdict(work), "ratio": round(statistics.median(ratios), 2), "ratios": [round(r, 2) for r in ratios],
        "live_ratio": round(statistics.median(of_live), 2), "largest_loss_difference": max(gaps),
        "epochs": epochs, "steps": epochs * batches,
        "tokens": epochs * sum(len(row.ids) for row in task_of(work, epochs, batches)[1]),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--works", nargs="*", type=int, default=range(len(WORKS)), help="numbers of works, from 0")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batches", type=int, default=12, help="in an epoch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(SERVE, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    if options.serve:
        serve(answer)
        return
    native = choose_dtype("auto", torch.device("cpu")) is torch.bfloat16
    for work in [WORKS[number] for number in options.works]:
        if work.dtype == "bfloat16" and not native:
            print(f"{work}: left out, this machine multiplies bfloat16 slower than float32")
            continue
        new = measure(work, options.epochs, options.batches, options.rounds)
        print(json.dumps(new), flush=True)
        keep_again("trunk", asdict(work), new)


if __name__ == "__main__":
    main()
