"""Training on a GPU beside its peers: `python -m bench.gpu`, results in bench/results/gpu.json.

Llama-shaped models of 1 and 8 billion random parameters, in bfloat16 or NF4, are made on the device; rows are of
log-normal lengths, as instruction data have them. Every system takes the same number of steps on the same rows from the
same start, in turn, round by round; the figures are medians over the rounds. A step's time runs from the end of the
step before, the loss read; the first steps of a run are left out. Tokens are those of the rows, padding is none. The
share of peak is that of the time in which the device, at the speed that it multiplies large bfloat16 matrices, would
have made the products that these rows need. Losses must agree with the peer's at every step, or the benchmark fails.

Packed attention is held against float64 before anything is measured. Without a GPU nothing is measured; with
`--device cpu` and a small shape (--layers, --hidden, --vocabulary, --longest) all of it runs, and nothing is kept.
"""

import argparse
import gc
import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from bench import gpu_systems
from bench.gpu_systems import Job, Taken
from bench.kept import keep_again, version_of
from bench.training import products
from tunewise.data.encode import Encoded
from tunewise.engine import attention
from tunewise.engine.batches import IGNORED
from tunewise.engine.gpu import SIZE, Speeds, measure
from tunewise.engine.native.attention import Pattern
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.training.config import TrainConfig

TOLERANCE = {"every": 0.05, "first": 0.05, "mean": 0.2}
"""Of a loss in nats a label, in bfloat16: of every step, of the first, or of the mean over rows in another order."""
DTYPES = torch.bfloat16, torch.float64
PEERS = ("peft", "trl", "liger_kernel", "unsloth", "bitsandbytes", "flash_attn")
SMALL = 512
"""Of the matrices that a CPU is measured by."""


@dataclass(frozen=True)
class Shape:
    """Of a Llama, and how many rows make a batch."""

    hidden: int
    inner: int
    layers: int
    heads: int
    key_values: int
    is_tied: bool
    batch_size: int
    vocabulary: int = 128_256
    longest: int = 1_024
    """Tokens of a row."""


@dataclass(frozen=True)
class Work:
    """One thing to measure."""

    shape: str
    method: str
    quantise: str = ""


SHAPES = {
    "1b": Shape(2_048, 8_192, 16, 32, 8, is_tied=True, batch_size=8),  # Llama-3.2-1B
    "8b": Shape(4_096, 14_336, 32, 32, 8, is_tied=False, batch_size=4),  # Llama-3.1-8B
}
METHODS: dict[str, dict[str, object]] = {
    "lora, all linear": {"name": "lora", "rank": 16, "alpha": 32, "roles": ["all"]},
    "lora, q and v": {"name": "lora", "rank": 16, "alpha": 32, "roles": ["q", "v"]},
    "full": {"name": "full"},
}
WORKS = {
    "1b-lora-all": Work("1b", "lora, all linear"),
    "1b-lora-qv": Work("1b", "lora, q and v"),
    "1b-full": Work("1b", "full"),
    "8b-lora-all": Work("8b", "lora, all linear"),
    "8b-lora-qv": Work("8b", "lora, q and v"),
    "8b-qlora-all": Work("8b", "lora, all linear", "nf4"),
}
PATTERNS = {
    "causal": Pattern(0.125),
    "both ways": Pattern(0.125, is_causal=False),
    "window": Pattern(0.125, window=64),
    "softcap": Pattern(0.125, softcap=20.0),
}


def build(shape: Shape, device: torch.device, quantise: str = "") -> PreTrainedModel:
    """The model of a shape in bfloat16 on `device`; the same weights at every call."""
    config = LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.inner,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.key_values,
        head_dim=shape.hidden // shape.heads, max_position_embeddings=8_192, tie_word_embeddings=shape.is_tied,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
    if quantise:
        _pack(model, quantise)
    return model


def _pack(model: PreTrainedModel, quantise: str) -> None:
    """Put its linear weights, but the head's, in four bits with the constants quantised again, as loading does."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    head = model.get_output_embeddings()
    linear = [path for path, module in model.named_modules() if type(module) is nn.Linear and module is not head]
    for path in linear:
        module = model.get_submodule(path)
        sizes, weight = (module.in_features, module.out_features), module.weight.data
        packed = Linear4bit(*sizes, bias=False, compute_dtype=weight.dtype, quant_type=quantise, device="meta")
        packed.weight = Params4bit(weight, requires_grad=False, quant_type=quantise).to(weight.device)
        model.set_submodule(path, packed)
    model.is_loaded_in_4bit = True


def rows(shape: Shape, n: int) -> list[Encoded]:
    """Prompts of median 150 tokens and answers of 120, log-normal, together no longer than the longest."""
    generator = torch.Generator().manual_seed(0)

    def ids(median: float, deviation: float, low: int, high: int) -> list[int]:
        length = (median * torch.exp(deviation * torch.randn((), generator=generator))).clamp(low, high)
        return torch.randint(3, shape.vocabulary, (int(length),), generator=generator).tolist()

    made = []
    for number in range(n):
        scale = shape.longest / 1_024
        prompt = ids(150 * scale, 0.8, 4, shape.longest * 2 // 3)
        answer = ids(120 * scale, 0.9, 2, shape.longest // 3)
        labels = (*[IGNORED] * len(prompt), *answer)
        made.append(Encoded(str(number), (*prompt, *answer), labels, len(prompt), False))
    return made


def operations(work: Work, shape: Shape, data: list[Encoded]) -> float:
    """Floating-point operations of the products that these rows need."""
    tuned = attach(build(shape, torch.device("meta")), parse_method(METHODS[work.method]))
    is_full = work.method == "full"
    return products(tuned, data, is_full=is_full, is_low_rank=not is_full)


def check_attention(device: torch.device, sizes: tuple[int, int, int]) -> dict[str, dict[str, Any]]:
    """How far packed attention in bfloat16 and its gradients lie from float64, over the largest; fails beyond SAME."""
    heads, groups, width = sizes
    generator = torch.Generator().manual_seed(0)
    starts = torch.tensor([0, 1, 130, 400, 1000], dtype=torch.int32)
    drawn = [torch.randn(1000, n, width, generator=generator).to(device) for n in (heads, groups, groups, heads)]
    *narrow, outer = [tensor.bfloat16() for tensor in drawn]
    found: dict[str, dict[str, Any]] = {}
    for name, pattern in PATTERNS.items():
        ours, exact = ([tensor.detach().to(dtype).requires_grad_() for tensor in narrow] for dtype in DTYPES)
        one = attention.attend(*ours, starts, pattern)
        other = attention.by_segment(*exact, starts, pattern)
        one.backward(outer)
        other.backward(outer.double())
        pairs = [(one.detach(), other.detach()), *((a.grad, b.grad) for a, b in zip(ours, exact, strict=True))]
        error = max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)
        assert error < attention.SAME, f"{name}: packed attention is {error} off on {device}"
        reason = attention.why_not_flash(device, torch.bfloat16, sizes, pattern)
        found[name] = {"error": error, "flash": not reason, "reason": reason}
    return found


def measured(work: Work, shape: Shape, device: torch.device, speeds: Speeds, n: dict[str, int]) -> dict[str, Any]:
    """Tokens a second, peak memory and the share of peak of every system, or why there is none; n steps and rounds."""
    config = TrainConfig(
        steps=n["steps"], batch_size=shape.batch_size, learning_rate=1e-5 if work.method == "full" else 2e-4,
        schedule="constant", warmup=0.0, evaluate_every=None, checkpoint_every=0,
    )  # fmt: skip
    data, method = rows(shape, n["steps"] * shape.batch_size), METHODS[work.method]
    job = Job(lambda quantise: build(shape, device, quantise), method, data, config, work.quantise, shape.longest)
    taken: dict[str, list[Taken]] = {}
    reasons: dict[str, str] = {}
    for name, system in gpu_systems.SYSTEMS.items():
        if reason := system.why_not(job):
            reasons[name] = reason
    for number in range(n["rounds"]):
        for name, system in gpu_systems.SYSTEMS.items():
            if name not in reasons:
                found, reason = _attempt(lambda run=system.run: run(job), device, is_ours=name == "tunewise")
                if found is None:
                    reasons[name] = reason
                else:
                    taken.setdefault(name, []).append(found)
        print(f"round {number + 1}: " + ", ".join(f"{name} {each[-1].rate:.0f}" for name, each in taken.items()))
    needed = operations(work, shape, data) / sum(len(row.ids) for row in data)  # a token
    systems: dict[str, dict[str, Any]] = {name: {"reason": reason} for name, reason in reasons.items()}
    for name, runs in taken.items():
        if name in systems:  # it failed in a later round
            continue
        gap = _gap(runs[-1], taken["tunewise"][-1], gpu_systems.SYSTEMS[name].compared)
        rate = statistics.median(run.rate for run in runs)
        systems[name] = {
            "tokens_per_second": round(rate), "peak_mib": max(run.peak_bytes for run in runs) >> 20,
            "share_of_peak": round(rate * needed / 1e12 / speeds.teraflops, 3), "loss_difference": gap,
            "layout": runs[-1].layout,
        }  # fmt: skip
    ours = systems["tunewise"]["tokens_per_second"]
    for name, each in systems.items():
        if "tokens_per_second" in each and name != "tunewise":
            each["ratio"] = round(ours / each["tokens_per_second"], 2)
    return {**asdict(work), **n, "batch_size": shape.batch_size, "device": asdict(speeds), "systems": systems}


def _attempt(run: Callable[[], Taken], device: torch.device, *, is_ours: bool) -> tuple[Taken | None, str]:
    """What a system took, or what it failed with, which is told; ours must not fail."""
    reason = ""
    try:
        return run(), ""
    except Exception as error:  # of somebody else's library on a machine that nobody here has seen
        if is_ours:
            raise
        is_memory = isinstance(error, torch.OutOfMemoryError)
        reason = "out of memory" if is_memory else f"failed: {type(error).__name__}: {str(error).strip()[:200]}"
    finally:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    print(reason)
    return None, reason


def _gap(one: Taken, ours: Taken, compared: str) -> float:
    """The largest difference of a step's loss, of the first step's, or of the mean over all rows."""
    if compared == "mean":
        return abs(statistics.mean(one.losses) - statistics.mean(ours.losses))
    pairs = list(zip(one.losses, ours.losses, strict=True))
    return max(abs(a - b) for a, b in (pairs if compared == "every" else pairs[:1]))


def shape_of(work: Work, options: argparse.Namespace) -> Shape:
    """The shape of a work, or the small one that the options ask for."""
    shape = SHAPES[work.shape]
    layers, hidden = options.layers or shape.layers, options.hidden or shape.hidden
    narrowing = shape.hidden // hidden
    return replace(
        shape, hidden=hidden, inner=shape.inner // narrowing, layers=layers, heads=max(2, shape.heads // narrowing),
        key_values=max(1, shape.key_values // narrowing), batch_size=options.batch_size or shape.batch_size,
        vocabulary=options.vocabulary or shape.vocabulary, longest=options.longest or shape.longest,
    )  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--works", nargs="*", default=list(WORKS), choices=WORKS, metavar="WORK", help=", ".join(WORKS))
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    for name in ("layers", "hidden", "vocabulary", "batch-size", "longest"):
        parser.add_argument(f"--{name}", type=int, help="instead of the shape's own")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("there is no GPU: nothing was measured")
        return
    transformers.logging.set_verbosity_error()
    speeds = measure(device, SIZE if device.type == "cuda" else SMALL)
    print(json.dumps(asdict(speeds)))
    for name in options.works:
        work, shape = WORKS[name], shape_of(WORKS[name], options)
        sizes = (shape.heads, shape.key_values, shape.hidden // shape.heads)
        checked = check_attention(device, sizes)
        new = measured(work, shape, device, speeds, {"steps": options.steps, "rounds": options.rounds})
        new |= {"attention": checked, "versions": {name: version_of(name) for name in PEERS}}
        print(json.dumps(new), flush=True)
        for system, each in new["systems"].items():
            off, compared = each.get("loss_difference", 0.0), gpu_systems.SYSTEMS[system].compared
            assert off < TOLERANCE[compared], f"{name}: the losses of {system} are {off} off"
        if device.type == "cuda" and replace(shape, batch_size=0) == replace(SHAPES[work.shape], batch_size=0):
            keep_again("gpu", {key: new[key] for key in (*asdict(work), "batch_size")}, new)


if __name__ == "__main__":
    main()
