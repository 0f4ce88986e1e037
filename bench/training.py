"""Training beside peft + Trainer: `python -m bench.training`, results in bench/results/training.json.

Both systems take the same steps on the same rows in the same batches from the same weights, in turn, round by round,
each in a process of its own; the figure is the median of the rounds' ratios of time. The peer runs at its defaults
(float32, rows drawn at random and padded), and once more at its best: batches of like length, in the precision that is
ours. Where trl is installed, its SFTTrainer runs over the same rows as well, packed, in our precision. Losses must
agree with the peer's at every step, or the benchmark fails. Peak memory is that of a process that does this alone,
Python and torch included.
"""

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import torch
import transformers
from transformers.trainer_pt_utils import get_length_grouped_indices

from bench import peer, peer_trl
from bench.beside import SERVE, Side, serve
from bench.kept import keep_again
from bench.shapes import SHAPES, as_base, build, rows
from tunewise.data.encode import Encoded
from tunewise.engine.backend import backend
from tunewise.engine.batches import IGNORED, epoch_batches
from tunewise.engine.objectives import objective_for
from tunewise.methods import parse_method
from tunewise.methods.attach import Tuned, attach
from tunewise.models.precision import choose_dtype
from tunewise.training.config import TrainConfig
from tunewise.training.loop import fit
from tunewise.training.memory import Peak

FULL_RATE, RATE = 1e-4, 1e-3
T = TypeVar("T")
TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}
SIDES = ("ours", "peer", "peer at its best")
PACKED_BY_TRL = 512  # tokens of a sequence; no row is longer
METHODS: dict[str, dict[str, object]] = {
    "lora": {"name": "lora", "rank": 8},
    "lora, all linear": {"name": "lora", "rank": 8, "roles": ["all"]},
    "full": {"name": "full"},
    "norms": {"name": "norms"},
    "dora": {"name": "dora", "rank": 8},
    "ia3": {"name": "ia3"},
    "vera": {"name": "vera"},
    "oft": {"name": "oft"},
    "lokr": {"name": "lokr"},
    "prompt tuning": {"name": "prompt_tuning", "virtual_tokens": 20},
    "prefix tuning": {"name": "prefix_tuning", "virtual_tokens": 20},
}


@dataclass(frozen=True)
class Work:
    """One thing to measure: a shape, a method, and the precision of our side."""

    shape: str
    method: str
    dtype: str = "float32"


WORKS = [
    *(Work(shape, "lora", dtype) for shape in SHAPES for dtype in TOLERANCE),
    *(Work(shape, "full", dtype) for shape in ("a", "c") for dtype in TOLERANCE),
    *(Work("a", method) for method in METHODS if method not in ("lora", "full")),
]


def task_of(work: Work, n_steps: int) -> tuple[TrainConfig, list[Encoded]]:
    """How long, and on what."""
    batch_size = SHAPES[work.shape].batch_size
    config = TrainConfig(
        steps=n_steps, batch_size=batch_size, learning_rate=FULL_RATE if work.method == "full" else RATE,
        schedule="constant", warmup=0.0, evaluate_every=None, checkpoint_every=0,
    )  # fmt: skip
    return config, rows(work.shape, n_steps * batch_size)


def tuned_for(work: Work, dtype: torch.dtype) -> Tuned:
    return attach(build(work.shape, dtype), parse_method(METHODS[work.method]))


def ours(work: Work, n_steps: int) -> tuple[float, list[float]]:
    """Seconds and losses of tunewise."""
    config, data = task_of(work, n_steps)
    tuned = tuned_for(work, getattr(torch, work.dtype))
    objective = objective_for(as_base(tuned.model, work.shape), tuned.prefix_ids, packing=True)
    with tempfile.TemporaryDirectory() as folder:
        return timed(lambda: fit(tuned, data, config, seed=0, folder=Path(folder), objective=objective).losses)


def theirs(work: Work, n_steps: int, *, best: bool = False) -> tuple[float, list[float]]:
    """Seconds and losses of peft + Trainer."""
    config, data = task_of(work, n_steps)
    lengths = [len(row.ids) + len(row.labels) for row in data]
    if best:
        order = get_length_grouped_indices(lengths, config.batch_size, generator=torch.Generator().manual_seed(0))
    else:
        order = [i for batch in epoch_batches(len(data), config.batch_size, 0, 0) for i in batch]
    dtype = getattr(torch, work.dtype) if best else torch.float32
    model = peer.adapted(build(work.shape, dtype), tuned_for(work, torch.float32))
    return timed(lambda: peer.trained(model, [data[i] for i in order], config)[1])


def theirs_by_trl(work: Work, n_steps: int) -> tuple[float, list[float]]:
    """Seconds and losses of trl; its batches are others, so that its losses are not compared."""
    config, data = task_of(work, n_steps)
    model = peer.adapted(build(work.shape, getattr(torch, work.dtype)), tuned_for(work, torch.float32))

    def train() -> list[float]:
        losses: list[float] = []
        more = {"bf16": work.dtype == "bfloat16", "use_cpu": True}
        peer_trl.trained(model, data, config, PACKED_BY_TRL, more, peer.Losses(losses))
        return losses

    return timed(train)


def operations(work: Work, n_steps: int) -> float:
    """Floating-point operations of matrix products that the rows of so many steps need."""
    tuned = tuned_for(work, torch.float32)
    return products(tuned, task_of(work, n_steps)[1], is_full=work.method == "full", is_low_rank="lora" in work.method)


def products(tuned: Tuned, data: Sequence[Encoded], *, is_full: bool, is_low_rank: bool) -> float:
    """Floating-point operations of the products that these rows need, those of attention left out.

    A token costs 2 a weight forward and 2 backward, and 2 more where the weight itself is trained; the head is needed
    where labels are. A decoder over an encoder makes its queries of the answers, and keys and values of the prompts.
    """
    n_read = sum(len(tuned.prefix_ids) + len(row.ids) for row in data)
    n_labels = sum(label != IGNORED for row in data for label in row.labels)
    anatomy = tuned.anatomy
    head = anatomy.head.d_in * anatomy.head.d_out if anatomy.head else 0
    total = (6.0 if is_full else 4.0) * n_labels * head
    for site in (site for site in anatomy.sites if not site.is_slice):
        reads = site.layer in anatomy.stacks[0] or (site.is_cross and site.role in ("k", "v"))
        added = 0
        if is_low_rank:
            own = (tensor for name, tensor in tuned.trainable.items() if name.startswith(f"delta.{site.name}."))
            added = sum(tensor.numel() for tensor in own)
        total += (n_read if reads else n_labels) * ((6.0 if is_full else 4.0) * site.d_in * site.d_out + 6.0 * added)
    return total


def sides_of(work: Work) -> tuple[str, ...]:
    """Those that can do this work here."""
    has_trl = all(importlib.util.find_spec(name) is not None for name in peer_trl.PACKAGES)
    return (*SIDES, "trl") if has_trl and SHAPES[work.shape].kind == "decoder" else SIDES


def measure(work: Work, n_steps: int, n_rounds: int) -> dict[str, object]:
    """Ratios of time and memory, and the largest difference of a step's losses."""
    seconds: dict[str, list[float]] = {side: [] for side in sides_of(work)}
    gaps = []
    with Side("bench.training") as us, Side("bench.training") as them:
        for _ in range(n_rounds):
            losses = {}
            for side in sides_of(work):
                found, losses[side] = (us if side == "ours" else them).ask([asdict(work), side, n_steps])
                seconds[side].append(found)
            gaps.append(max(abs(a - b) for a, b in zip(losses["ours"], losses["peer"], strict=True)))
    assert max(gaps) < TOLERANCE[work.dtype], f"{work}: losses differ by {max(gaps)}"
    needed, speed = operations(work, n_steps), backend().gflops
    fastest = speed["bfloat16"] if work.dtype == "bfloat16" else max(v for k, v in speed.items() if "float32" in k)
    share = needed / 1e9 / fastest / statistics.median(seconds["ours"])
    memory = {side: _peak(work, side, n_steps) for side in SIDES[:2]}

    def ratio(side: str) -> float:
        return round(statistics.median(b / a for a, b in zip(seconds["ours"], seconds[side], strict=True)), 2)

    return {
        **asdict(work), "ratio": ratio("peer"), "ratio_to_best": ratio("peer at its best"),
        "ratio_to_trl": ratio("trl") if "trl" in seconds else None,
        "share_of_products": round(share, 2),
        "memory_ratio": round(memory["ours"] / memory["peer"], 2), "peak_mib": memory,
        "largest_loss_difference": max(gaps), "steps": n_steps, "rounds": n_rounds,
        "tokens": sum(len(row.ids) for row in task_of(work, n_steps)[1]),
    }  # fmt: skip


def _peak(work: Work, side: str, n_steps: int) -> int:
    """MiB that a process of its own needs at most."""
    command = [sys.executable, "-m", "bench.training", "--alone", json.dumps([asdict(work), side, min(n_steps, 8)])]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(found.stdout.split()[-1])


def answer(question: tuple[dict[str, str], str, int]) -> tuple[float, list[float]]:
    """Seconds and losses of one side."""
    told, side, n_steps = question
    work = Work(**told)
    if side in ("ours", "trl"):
        return ours(work, n_steps) if side == "ours" else theirs_by_trl(work, n_steps)
    return theirs(work, n_steps, best=side != "peer")


def alone(told: str) -> None:
    """Do the work of one side and print the peak of this process."""
    peak = Peak(torch.device("cpu"))
    answer(json.loads(told))
    print(peak.bytes() >> 20)


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Seconds that `work` takes, and what it returns."""
    start = time.perf_counter()
    made = work()
    return time.perf_counter() - start, made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, help="instead of the steps of each shape")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES))
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    parser.add_argument(SERVE, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    if options.serve:
        serve(answer)
        return
    if options.alone:
        alone(options.alone)
        return
    native = choose_dtype("auto", torch.device("cpu")) is torch.bfloat16
    for work in [work for work in WORKS if work.shape in options.shapes and work.method in options.methods]:
        if work.dtype == "bfloat16" and not native:
            print(f"{work}: left out, this machine multiplies bfloat16 slower than float32")
            continue
        new = measure(work, options.steps or SHAPES[work.shape].steps, options.rounds)
        print(json.dumps(new), flush=True)
        keep_again("training", asdict(work), new)


if __name__ == "__main__":
    main()
