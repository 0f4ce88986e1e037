"""LoRA on a quantised base: `python -m bench.qlora`, results in bench/results/qlora.json.

The shape b12 in bfloat16, and with its linear weights in four or eight bits (`bench.shapes.load`), takes the same steps
on the same rows from the same adapter: by tunewise on both, and on the quantised one by peft + bitsandbytes + Trainer,
as peft's guide to quantisation says (`prepare_model_for_kbit_training`: the rest in float32, activations computed
again; `bf16=True`), and at its best (all in bfloat16, nothing computed again, batches of like length). Of a base whose
embedding and head are in eight bits (nf4-ends8) the peer has the layers so, and no more. The sides take turns, round by
round, ours and the peer in a process of their own; figures are medians of the rounds' ratios. Of time
there are two, wall time and what the processor worked, which other users of the machine do not stretch. Losses must
agree with the peer's at every step, or the benchmark fails. Peak memory is that of a process that does this alone,
Python and torch included.
"""

import argparse
import functools
import json
import logging
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import peft
import torch
import transformers
from transformers import PreTrainedModel
from transformers.trainer_pt_utils import get_length_grouped_indices

from bench import peer
from bench.beside import SERVE, Side, serve
from bench.kept import keep_again
from bench.shapes import as_base, build, load, rows
from bench.training import METHODS, RATE
from tunewise.data.encode import Encoded
from tunewise.engine.batches import epoch_batches
from tunewise.engine.objectives import objective_for
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.methods.store import save_adapter
from tunewise.models.ends import EightBitEnd
from tunewise.models.packed import scales_of
from tunewise.models.quantise import keep_layout, leave_file, of_layers, packed_weights
from tunewise.training.config import TrainConfig
from tunewise.training.loop import fit
from tunewise.training.memory import Peak

SHAPE = "b12"
OURS, BFLOAT16, GUIDE, BEST = SIDES = ("ours", "ours in bfloat16", "peer", "peer at its best")
TOLERANCE = 5e-2
"""Of a step's loss in nats a label, in bfloat16."""


@dataclass(frozen=True)
class Work:
    """One thing to measure."""

    method: str
    quantise: str
    batch_size: int
    steps: int


WORKS = [
    Work("lora, all linear", "nf4", batch_size=8, steps=8),
    Work("lora", "nf4", batch_size=8, steps=8),
    Work("lora, all linear", "nf4", batch_size=1, steps=24),
    Work("lora, all linear", "int8", batch_size=8, steps=8),
    Work("lora, all linear", "nf4-ends8", batch_size=8, steps=8),
]


@dataclass(frozen=True)
class Taken:
    """What a side took: seconds on the clock and of the processor, the loss of every step, and bytes of weights."""

    wall: float
    processor: float
    losses: list[float]
    weights: int
    linear_weights: int


@functools.cache
def base(quantise: str) -> PreTrainedModel:
    """The base in a format, or in bfloat16; loaded once a process, as `tunewise.load_base` does."""
    model = load(SHAPE, torch.bfloat16, quantise)
    if quantise:
        leave_file(model)
    return model


def task_of(work: Work) -> tuple[TrainConfig, list[Encoded]]:
    """How long, and on what."""
    config = TrainConfig(
        steps=work.steps, batch_size=work.batch_size, learning_rate=RATE, schedule="constant", warmup=0.0,
        evaluate_every=None, checkpoint_every=0,
    )  # fmt: skip
    return config, rows(SHAPE, work.steps * work.batch_size)


def ours(work: Work, quantise: str) -> Taken:
    config, data = task_of(work)
    model = base(quantise)
    keep_layout(model)
    tuned = attach(model, parse_method(METHODS[work.method]))
    objective = objective_for(as_base(model, SHAPE), tuned.prefix_ids, packing=True)
    with tempfile.TemporaryDirectory() as folder:
        found = timed(model, lambda: fit(tuned, data, config, seed=0, folder=Path(folder), objective=objective).losses)
    tuned.detach()
    return found


def theirs(work: Work, *, best: bool) -> Taken:
    config, data = task_of(work)
    with tempfile.TemporaryDirectory() as start:
        save_adapter(attach(build(SHAPE, torch.bfloat16), parse_method(METHODS[work.method])), start)
        model = load(SHAPE, torch.bfloat16, of_layers(work.quantise))  # anew: peft writes into what it is given
        if best:
            lengths = [len(row.ids) for row in data]
            order = get_length_grouped_indices(lengths, config.batch_size, generator=torch.Generator().manual_seed(0))
        else:
            model = peft.prepare_model_for_kbit_training(model)
            order = [i for batch in epoch_batches(len(data), config.batch_size, 0, 0) for i in batch]
        adapted = peer.trainable(model, start)
    told = {} if best else {"bf16": True}
    return timed(model, lambda: peer.trained(adapted, [data[i] for i in order], config, told)[1])


def timed(model: PreTrainedModel, work: Callable[[], list[float]]) -> Taken:
    """Do the work, and tell what it took and what the weights of `model` take."""
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    losses = work()
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Taken(wall, processor, losses, *weight_bytes(model))


def weight_bytes(model: PreTrainedModel) -> tuple[int, int]:
    """What parameters and buffers of the base take with all that turns codes into weights, and what linear layers do.

    The head is not counted among linear layers, nor anything that an adapter adds.
    """
    packed, head = packed_weights(model).values(), model.get_output_embeddings()
    total = linear = 0
    for name, module in model.named_modules():
        if "lora_" in name:
            continue
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if module in packed and not isinstance(module, EightBitEnd):  # whose scales are buffers
            own += scales_of(module)
        n_bytes = sum({tensor.data_ptr(): tensor.nbytes for tensor in own}.values())
        total += n_bytes
        linear += n_bytes if isinstance(module, torch.nn.Linear) and module is not head else 0
    return total, linear


def measure(work: Work, n_rounds: int) -> dict[str, object]:
    """Ratios of time and memory, and the largest difference of a step's losses."""
    taken: dict[str, list[Taken]] = {side: [] for side in SIDES}
    with Side("bench.qlora") as us, Side("bench.qlora") as them:
        for number in range(n_rounds + 1):
            for side in SIDES:
                found = Taken(**(us if side in SIDES[:2] else them).ask([asdict(work), side]))
                if number:  # the first time everything is loaded and prepared
                    taken[side].append(found)
    gap = max(abs(a - b) for a, b in zip(taken[OURS][-1].losses, taken[GUIDE][-1].losses, strict=True))
    assert gap < TOLERANCE, f"{work}: losses differ by {gap}"

    def ratio(one: str, other: str, part: str) -> float:
        pairs = zip(taken[one], taken[other], strict=True)
        return round(statistics.median(asdict(a)[part] / asdict(b)[part] for a, b in pairs), 3)

    packed, plain = taken[OURS][-1], taken[BFLOAT16][-1]
    peaks = {side: _peak(work, side) for side in SIDES}
    return {
        **asdict(work), "rounds": n_rounds,
        "time_beside_bfloat16": {part: ratio(OURS, BFLOAT16, part) for part in ("wall", "processor")},
        "peer": {part: ratio(GUIDE, OURS, part) for part in ("wall", "processor")},
        "peer_at_its_best": {part: ratio(BEST, OURS, part) for part in ("wall", "processor")},
        "weights": round(packed.weights / plain.weights, 3),
        "linear_weights": round(packed.linear_weights / plain.linear_weights, 3),
        "weight_bytes": {OURS: packed.weights, BFLOAT16: plain.weights, GUIDE: taken[GUIDE][-1].weights},
        "peak_mib": peaks, "largest_loss_difference": gap,
        "last_loss_less_that_in_bfloat16": packed.losses[-1] - plain.losses[-1],
        "seconds": {side: round(statistics.median(one.wall for one in taken[side]), 2) for side in SIDES},
    }  # fmt: skip


def _peak(work: Work, side: str) -> int:
    """MiB that a process of its own needs at most."""
    few = replace(work, steps=min(work.steps, 4))
    command = [sys.executable, "-m", "bench.qlora", "--alone", json.dumps([asdict(few), side])]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(found.stdout.split()[-1])


def answer(question: tuple[dict[str, object], str]) -> dict[str, object]:
    """What one side took; the question is a work's fields and a side."""
    told, side = question
    work = Work(**told)
    if side in (OURS, BFLOAT16):
        return asdict(ours(work, work.quantise if side == OURS else ""))
    return asdict(theirs(work, best=side == BEST))


def alone(told: str) -> None:
    """Do the work of one side and print the peak of this process."""
    work, side = json.loads(told)
    if side in (OURS, BFLOAT16):
        base(Work(**work).quantise if side == OURS else "")
    peak = Peak(torch.device("cpu"))
    answer((work, side))
    print(peak.bytes() >> 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--works", nargs="*", type=int, default=range(len(WORKS)), help="numbers of works, from 0")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    parser.add_argument(SERVE, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # of a kernel it could download
    if options.serve:
        serve(answer)
        return
    if options.alone:
        alone(options.alone)
        return
    for work in [WORKS[number] for number in options.works]:
        new = measure(work, options.rounds)
        print(json.dumps(new), flush=True)
        keep_again("qlora", asdict(work), new)


if __name__ == "__main__":
    main()
