"""The planner's memory beside a run's: `python -m bench.planner`, results in bench/results/planner.json.

Each combination of base, method, batch, precision, format and checkpointing trains three steps of rows that are all as
long as the longest, in a process of its own. Measured are the bytes of tensors at the peak, as torch's allocator counts
them, and, in another process, the highest resident memory above that behind the imports.
"""

import argparse
import json
import os
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import bitsandbytes  # noqa: F401  # that its import is none of a quantised base's memory
import torch
from matplotlib import pyplot
from torch import Tensor
from torch._C._profiler import _EventType
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

from bench.kept import RESULTS, keep, read
from bench.shapes import CLASSES, SHAPES, as_base, build
from tunewise.data.encode import Encoded
from tunewise.engine.batches import IGNORED
from tunewise.engine.from_trunk import FromTrunk, route_for
from tunewise.engine.objectives import objective_for
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.models.heads import TaskHead
from tunewise.models.quantise import keep_layout, loading, scales
from tunewise.planning.rehearsal import rehearse
from tunewise.planning.shell import shell_of
from tunewise.planning.work import Seen, Work
from tunewise.training.config import TrainConfig
from tunewise.training.loop import fit

N_STEPS = 3
AUTO = {
    "decoder": AutoModelForCausalLM,
    "encoder_decoder": AutoModelForSeq2SeqLM,
    "classifier": AutoModelForSequenceClassification,
}
LORA = {"name": "lora", "rank": 8}
ALL = {"name": "lora", "rank": 64, "roles": ["all"]}


@dataclass(frozen=True)
class Case:
    """One thing to train."""

    shape: str
    method: dict[str, Any] = field(default_factory=lambda: dict(LORA))
    rows: int = 8
    tokens: int = 256
    labels: int = 128
    dtype: str = "float32"
    quantise: str = ""
    checkpointing: bool = False
    from_trunk: bool = False

    @property
    def work(self) -> Work:
        own = ("shape", "method", "dtype", "from_trunk")
        told = {name: value for name, value in asdict(self).items() if name not in own}
        n = N_STEPS * self.rows
        seen = Seen(n, n * self.tokens, n * self.labels) if self.from_trunk else None
        return Work(**told, dtype=getattr(torch, self.dtype), seen=seen)

    @property
    def name(self) -> str:
        method = ", ".join(str(value) for value in self.method.values())
        said = [self.quantise, "checkpointing" * self.checkpointing, "from the trunk" * self.from_trunk]
        extra = " ".join(filter(None, said))
        return f"{self.shape} {method}: {self.rows} × {self.tokens}, {self.dtype} {extra}".strip()


CASES = [
    *(Case("a", {"name": name}) for name in ("full", "norms", "ia3", "bottleneck", "prompt_tuning", "prefix_tuning")),
    *(Case("a", {"name": name}) for name in ("top_layers", "dora", "vera", "oft")),
    Case("a"), Case("a", ALL), Case("a", {"name": "bitfit", "add": True}), Case("a", rows=2), Case("a", rows=24),
    Case("a", rows=16, dtype="bfloat16"), Case("a", rows=16, checkpointing=True),
    Case("a", {"name": "full"}, rows=16, dtype="bfloat16"), Case("a", ALL, dtype="bfloat16", checkpointing=True),
    Case("b12", rows=4), Case("b12", rows=4, dtype="bfloat16"), Case("b12", ALL, rows=2, dtype="bfloat16"),
    Case("b12", {"name": "full"}, rows=2, dtype="bfloat16", checkpointing=True), Case("b12", rows=2, tokens=512),
    Case("b12", {"name": "full"}, rows=2, tokens=128, labels=64), Case("b12", rows=8, checkpointing=True),
    Case("b12", rows=4, dtype="bfloat16", quantise="nf4"), Case("b12", rows=2, quantise="nf4"),
    Case("b12", ALL, rows=4, dtype="bfloat16", quantise="nf4", checkpointing=True),
    Case("b12", rows=2, dtype="bfloat16", quantise="int8"),
    Case("c", rows=32, tokens=64, labels=1), Case("c", {"name": "full"}, rows=16, tokens=128, labels=1),
    Case("c", {"name": "head"}, rows=32, tokens=64, labels=1),
    Case("c", {"name": "bitfit"}, rows=16, tokens=64, labels=1),
    Case("d", tokens=128, labels=32, dtype="bfloat16", quantise="nf4"),
    Case("d", rows=8, tokens=128, labels=32), Case("d", {"name": "full"}, rows=4, tokens=128, labels=32),
    Case("d", ALL, tokens=128, labels=32, dtype="bfloat16"), Case("d", rows=8, labels=64, checkpointing=True),
    Case("d", {"name": "prefix_tuning"}, rows=4, tokens=128, labels=32),
    Case("b12", {"name": "top_layers"}, rows=4, from_trunk=True),
    Case("a", {"name": "head"}, dtype="bfloat16", from_trunk=True),
]  # fmt: skip

HELD_OUT = [
    Case("a", {"name": "compacter"}), Case("a", {"name": "mam"}, rows=4), Case("a", {"name": "lokr"}, dtype="bfloat16"),
    Case("a", {"name": "full"}, rows=4, tokens=512), Case("a", {"name": "lora", "rank": 16}, rows=12, labels=32),
    Case("a", ALL, rows=4, tokens=128), Case("b12", {"name": "bottleneck"}, rows=4, dtype="bfloat16"),
    Case("b12", {"name": "ia3"}, rows=3), Case("b12", {"name": "top_layers"}, rows=6, dtype="bfloat16"),
    Case("b12", rows=12, tokens=128, labels=64, dtype="bfloat16", quantise="fp4"),
    Case("b12", {"name": "dora"}, rows=2, dtype="bfloat16", quantise="nf4"),
    Case("c", rows=24, tokens=96, labels=1, dtype="bfloat16"),
    Case("c", {"name": "prompt_tuning"}, rows=16, tokens=64, labels=1),
    Case("d", {"name": "bottleneck"}, rows=6, tokens=192, labels=48),
    Case("d", {"name": "ia3"}, tokens=96, labels=32, dtype="bfloat16", checkpointing=True),
]  # fmt: skip
"""Chosen after the constants of `planning.process` were fitted to CASES, which never saw these."""


def head_of(case: Case) -> TaskHead:
    return TaskHead("classes", CLASSES) if SHAPES[case.shape].kind == "classifier" else TaskHead()


def predicted(case: Case, folder: Path) -> dict[str, int]:
    """What the planner says, from the configuration alone."""
    found = rehearse(shell_of(str(folder), head_of(case)), parse_method(case.method), case.work)
    return {**asdict(found.memory), "total": found.memory.total, "allocated": found.memory.allocated}


def resident(case: Case, folder: Path) -> dict[str, int]:
    """Resident memory at the peak of three steps, above that behind the imports."""
    before = _resident()
    train = _training(case, folder)
    return {"resident": train() - before}


def allocated(case: Case, folder: Path) -> dict[str, int]:
    """Bytes of tensors at the peak of three steps, as torch's allocator counts them; a base that is mapped included."""
    model = _model(case, folder)
    held = sum({each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in _held(model)}.values())
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as told:
        _training(case, folder, model)()
    pending, peak = list(told.profiler.kineto_results.experimental_event_tree()), 0
    while pending:
        event = pending.pop()
        pending += event.children
        if event.tag == _EventType.Allocation:
            peak = max(peak, event.extra_fields.total_allocated)
    return {"allocated": held + peak}


def _held(model: Any) -> Iterator[Tensor]:
    yield from (*model.parameters(), *model.buffers())
    for _, tensor in scales(model):
        yield tensor


def _model(case: Case, folder: Path) -> Any:
    config, dtype = AutoConfig.from_pretrained(folder), getattr(torch, case.dtype)
    storage = loading(config, case.quantise, dtype, torch.device("cpu"))
    model = AUTO[SHAPES[case.shape].kind].from_pretrained(folder, dtype=dtype, **storage)
    keep_layout(model)
    return model


def _training(case: Case, folder: Path, model: Any = None) -> Callable[[], int]:
    """Three steps, which tell the peak of resident memory."""
    tuned = attach(model or _model(case, folder), parse_method(case.method))
    objective = objective_for(as_base(tuned.model, case.shape), tuned.prefix_ids, packing=True)
    told = {"evaluate_every": None, "checkpoint_every": 0, "checkpointing": case.checkpointing}
    config = TrainConfig(steps=N_STEPS, batch_size=case.rows, **told)
    rows = [_row(case, number) for number in range(N_STEPS * case.rows)]
    if case.from_trunk:
        tuned.model.eval()
        objective = route_for(tuned, objective, rows, group_size=case.rows).objective
        assert isinstance(objective, FromTrunk)

    def train() -> int:
        with tempfile.TemporaryDirectory() as out:
            return fit(tuned, rows, config, seed=0, folder=Path(out), objective=objective).peak_bytes

    return train


def apart(job: Callable[[Case, Path], dict[str, int]], case: Case, folder: Path) -> dict[str, int]:
    """What `job` returns in a process of its own, which begins with the imports done and nothing computed."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            os.write(writing, json.dumps(job(case, folder)).encode())
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as told:
        content = told.read()
    _, code = os.waitpid(child, 0)
    assert code == 0, case.name
    return json.loads(content)


def saved(case: Case, folder: Path) -> dict[str, int]:
    """Write the base."""
    build(case.shape, getattr(torch, case.dtype)).save_pretrained(folder)
    return {}


def _row(case: Case, number: int) -> Encoded:
    generator = torch.Generator().manual_seed(number)
    ids = tuple(torch.randint(3, SHAPES[case.shape].vocabulary, (case.tokens,), generator=generator).tolist())
    if SHAPES[case.shape].kind == "classifier":
        return Encoded(str(number), ids, (number % len(CLASSES),), len(ids), False)
    if SHAPES[case.shape].kind == "encoder_decoder":
        return Encoded(str(number), ids, ids[: case.labels], len(ids), False)
    n = case.tokens - case.labels
    return Encoded(str(number), ids, (*[IGNORED] * n, *ids[n:]), n, False)


def _resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def compare(
    cases: Sequence[Case], folder: Path, known: Mapping[str, dict[str, int]] | None = None
) -> Iterator[dict[str, Any]]:
    """Predicted beside measured, one row a case."""
    for case in cases:
        path = folder / f"{case.shape} {case.dtype}"
        if not path.exists():
            apart(saved, case, path)
        told, truth = apart(predicted, case, path), (known or {}).get(case.name)
        truth = truth or apart(allocated, case, path) | apart(resident, case, path)
        errors = {"allocated": told["allocated"], "resident": told["total"]}
        errors = {name: round(value / truth[name] - 1, 4) for name, value in errors.items()}
        print(
            f"{case.name:66} allocated {told['allocated'] / 1e6:7.1f} {truth['allocated'] / 1e6:7.1f} MB "
            f"{errors['allocated']:+6.1%}   resident {told['total'] / 1e6:7.1f} {truth['resident'] / 1e6:7.1f} MB "
            f"{errors['resident']:+6.1%}",
            flush=True,
        )
        yield {
            "case": case.name,
            "held_out": case in HELD_OUT,
            **asdict(case),
            "predicted": told,
            "measured": truth,
            "error": errors,
        }


def told_of(found: Sequence[dict[str, Any]]) -> str:
    """The errors of those that constants were fitted to, and of those that were held out, in a line each."""
    lines = []
    for name in ("allocated", "resident"):
        for which, held_out in (("fitted", False), ("held out", True)):
            errors = sorted(abs(row["error"][name]) for row in found if row["held_out"] == held_out)
            if errors:
                told = f"median error {median(errors):.1%}, worst {errors[-1]:.1%}"
                lines.append(f"{name}, {which}: {len(errors)} cases, {told}")
    return "\n".join(lines)


def draw(found: Sequence[dict[str, Any]], path: Path) -> None:
    """Measured against predicted, both logarithmic, with the lines of 20 % more and less."""
    figure, axes = pyplot.subplots(figsize=(6, 6))
    for name, of_planner in (("allocated", "allocated"), ("resident", "total")):
        pairs = [(row["predicted"][of_planner] / 1e6, row["measured"][name] / 1e6) for row in found]
        axes.scatter(*zip(*pairs, strict=True), s=14, label=name)
    ends = [min(axes.get_xlim()[0], 20.0) or 20.0, axes.get_xlim()[1]]
    for factor, style in ((1.0, "-"), (1.2, ":"), (1 / 1.2, ":")):
        axes.plot(ends, [factor * end for end in ends], style, color="grey", linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="predicted, MB", ylabel="measured, MB")
    axes.legend()
    figure.savefig(path, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--again", action="store_true", help="predict anew, beside what was measured before")
    told = parser.parse_args()
    only = told.only
    known = {row["case"]: row["measured"] for row in read("planner")["results"]} if told.again else {}
    with tempfile.TemporaryDirectory() as folder:
        found = list(compare([case for case in (*CASES, *HELD_OUT) if only in case.name], Path(folder), known))
    print(told_of(found))
    if not only:
        keep("planner", found)
        draw(found, RESULTS / "planner.svg")


if __name__ == "__main__":
    main()
