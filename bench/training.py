"""Training speed beside peft + Trainer: `python -m bench.training`, results in bench/results/training.json.

Both systems take the same steps on the same rows from the same weights, in turn, round by round; the figure is the
median of the rounds' ratios. float32 losses must agree to 1e-3 at every step, or the benchmark fails. The C library is
asked to keep freed pages by our first round and cannot forget it, so that the peer has that too in later ones.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

from bench import peer
from tunewise.data.encode import Encoded
from tunewise.engine.batches import epoch_batches
from tunewise.engine.objectives import PackedNextToken
from tunewise.engine.packing import why_not_packed
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.models.precision import choose_dtype
from tunewise.training.config import TrainConfig
from tunewise.training.loop import fit

RESULTS = Path(__file__).parent / "results" / "training.json"
SHAPES = {  # a: a small llama; b12: twelve layers of SmolLM2-135M's width
    "a": {
        "vocab_size": 4096, "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 6,
        "num_attention_heads": 4,
    },
    "b12": {
        "vocab_size": 32000, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 12,
        "num_attention_heads": 9, "num_key_value_heads": 3,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Work:
    """One thing to measure: a shape, a method of ours, its dtype here; the peer always runs float32, its default."""

    shape: str
    method: str
    dtype: str


WORKS = [Work("a", "lora", "float32"), Work("a", "lora", "bfloat16"), Work("a", "full", "float32"),
         Work("b12", "lora", "float32"), Work("b12", "lora", "bfloat16")]  # fmt: skip


def rows(n: int, vocabulary: int) -> list[Encoded]:
    """Instruction pairs of log-normal lengths: prompts median 60 (20 to 200), answers median 30 (5 to 150)."""
    generator = torch.Generator().manual_seed(0)

    def length(median: float, deviation: float, low: int, high: int) -> int:
        drawn = median * torch.exp(deviation * torch.randn((), generator=generator))
        return int(drawn.clamp(low, high))

    made = []
    for index in range(n):
        prompt, answer = length(60, 0.6, 20, 200), length(30, 0.8, 5, 150)
        ids = torch.randint(3, vocabulary, (prompt + answer,), generator=generator).tolist()
        made.append(Encoded(str(index), tuple(ids), tuple([-100] * prompt + ids[prompt:]), prompt, False))
    return made


def model(shape: str, dtype: torch.dtype) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SHAPES[shape], max_position_embeddings=512)).to(dtype)


def measure(work: Work, n_steps: int, n_rounds: int) -> dict[str, object]:
    """The ratio of our tokens per second to the peer's, and the largest difference of a step's losses."""
    config = TrainConfig(
        steps=n_steps, learning_rate=1e-3 if work.method == "lora" else 1e-4, schedule="constant", warmup=0.0,
        evaluate_every=None, checkpoint_every=0,
    )  # fmt: skip
    data = rows(n_steps * config.batch_size, SHAPES[work.shape]["vocab_size"])
    batches = epoch_batches([len(row.ids) for row in data], config.batch_size, 0, 0)
    in_order = [data[i] for batch in batches for i in batch]
    method = parse_method({"name": work.method, "rank": 8} if work.method == "lora" else work.method)

    def ours() -> tuple[float, list[float]]:
        tuned = attach(model(work.shape, getattr(torch, work.dtype)), method)
        with tempfile.TemporaryDirectory() as folder:
            reason = why_not_packed(tuned.model, tuned.prefix_ids)
            assert not reason, reason
            objective = PackedNextToken(0, tuned.prefix_ids)
            return timed(lambda: fit(tuned, data, config, seed=0, folder=Path(folder), objective=objective).losses)

    def theirs() -> tuple[float, list[float]]:
        plain = model(work.shape, torch.float32)
        if work.method == "lora":
            plain = peer.with_lora(plain, attach(model(work.shape, torch.float32), method), ["q_proj", "v_proj"])
        return timed(lambda: peer.train(plain, in_order, config))

    ratios, gaps = [], []
    for _ in range(n_rounds):
        (our_seconds, our_losses), (their_seconds, their_losses) = ours(), theirs()
        ratios.append(their_seconds / our_seconds)
        gaps.append(max(abs(a - b) for a, b in zip(our_losses, their_losses, strict=True)))
    tolerance = 1e-3 if work.dtype == "float32" else 5e-2
    assert max(gaps) < tolerance, f"{work}: losses differ by {max(gaps)}"
    tokens = sum(len(row.ids) for row in data)
    return {**asdict(work), "ratio": round(statistics.median(ratios), 2), "ratios": [round(r, 2) for r in ratios],
            "largest_loss_difference": max(gaps), "steps": n_steps, "tokens": tokens}  # fmt: skip


def timed(work: Callable[[], list[float]]) -> tuple[float, list[float]]:
    """Seconds that `work` takes, and the losses that it returns."""
    start = time.perf_counter()
    losses = work()
    return time.perf_counter() - start, losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES))
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    found = []
    native = choose_dtype("auto", torch.device("cpu")) is torch.bfloat16
    for work in [work for work in WORKS if work.shape in options.shapes]:
        if work.dtype == "bfloat16" and not native:
            print(f"{work}: left out, this machine multiplies bfloat16 slower than float32")
            continue
        found.append(measure(work, options.steps, options.rounds))
        print(json.dumps(found[-1]))
    environment = {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peer.peft.__version__,
                   "threads": torch.get_num_threads(), "machine": platform.machine()}  # fmt: skip
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"environment": environment, "results": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
