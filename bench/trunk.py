"""Training above a frozen trunk beside Trainer: `python -m bench.trunk`, results in bench/results/trunk.json.

Several epochs over the same rows: the head alone on a BERT-shaped classifier, and the top two layers of a Llama of
twelve. The peer is `transformers.Trainer` at its defaults, in float32, with `requires_grad` off below; ours is timed
from the choice of the route on, the one pass through the trunk included; `live` is ours with train.trunk=live.
All take the same steps from the same weights, in turn, round by round; the figure is the median of the rounds' ratios.
float32 losses must agree to 1e-3 at every step, or the benchmark fails.
"""

import argparse
import json
import platform
import statistics
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from bench import peer
from bench.training import SHAPES, Work, rows, timed
from tunewise.data.encode import Encoded
from tunewise.engine.batches import epoch_batches
from tunewise.engine.from_trunk import How, route_for
from tunewise.engine.objectives import objective_for
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.models.anatomy import read_anatomy
from tunewise.models.heads import TaskHead
from tunewise.models.load import Base
from tunewise.models.precision import choose_dtype
from tunewise.training.config import TrainConfig
from tunewise.training.loop import fit

RESULTS = Path(__file__).parent / "results" / "trunk.json"
CLASSES = ("a", "b", "c", "d")
BERT = {
    "vocab_size": 30522, "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6,
    "num_attention_heads": 12, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
SMALL = {"hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 3, "num_hidden_layers": 3}
METHODS = {"head": {"name": "head"}, "top_layers": {"name": "top_layers", "layers": 2}}
WORKS = [
    Work("c", "head", "float32"), Work("c", "head", "bfloat16"),
    Work("b12", "top_layers", "float32"), Work("b12", "top_layers", "bfloat16"),
]  # fmt: skip


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    epochs: int
    batches: int
    """In an epoch."""
    rounds: int
    small: bool
    """A dry run on small models; its figures say nothing."""


class Padding:
    """All that is asked of a tokenizer here."""

    pad_token_id = 0


def texts(n: int) -> list[Encoded]:
    """Texts of log-normal lengths, median 38 (8 to 256), with one of four classes each."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for index in range(n):
        drawn = 38 * torch.exp(0.75 * torch.randn((), generator=generator))
        ids = torch.randint(3, BERT["vocab_size"], (int(drawn.clamp(8, 256)),), generator=generator).tolist()
        made.append(Encoded(str(index), tuple(ids), (index % len(CLASSES),), len(ids), False))
    return made


def model(shape: str, dtype: torch.dtype, small: bool) -> PreTrainedModel:
    torch.manual_seed(0)
    smaller = SMALL if small else {}
    if shape == "c":
        config = BertConfig(**{**BERT, **smaller}, num_labels=len(CLASSES), pad_token_id=0)
        return BertForSequenceClassification(config).to(dtype).eval()
    fewer_heads = {"num_key_value_heads": SMALL["num_attention_heads"]} if small else {}
    shaped = {**SHAPES[shape], **smaller, **fewer_heads}
    return LlamaForCausalLM(LlamaConfig(**shaped, max_position_embeddings=512)).to(dtype).eval()


def measure(work: Work, size: Size) -> dict[str, Any]:
    """The ratio of our speed to the peer's, with the trunk cached and live, and the largest difference of losses."""
    batch_size = 32 if work.shape == "c" else 8
    config = TrainConfig(
        steps=size.epochs * size.batches, batch_size=batch_size, learning_rate=1e-3 if work.method == "head" else 1e-4,
        schedule="constant", warmup=0.0, evaluate_every=None, checkpoint_every=0,
    )  # fmt: skip
    n = size.batches * batch_size
    data = texts(n) if work.shape == "c" else rows(n, SHAPES[work.shape]["vocab_size"])
    lengths = [len(row.ids) for row in data]
    orders = [epoch_batches(lengths, batch_size, 0, epoch) for epoch in range(size.epochs)]
    in_order = [data[i] for order in orders for batch in order for i in batch]
    method = parse_method(METHODS[work.method])

    def ours(how: How) -> tuple[float, list[float]]:
        tuned = attach(model(work.shape, getattr(torch, work.dtype), size.small), method)
        head = TaskHead("classes", CLASSES) if work.shape == "c" else TaskHead()
        base = Base(tuned.model, Padding(), tuned.anatomy, work.shape, "", tuned.model.dtype, head)

        def train() -> list[float]:
            objective = objective_for(base, packing=True)
            assert objective.layout == "packed"
            route = route_for(tuned, objective, data, how, group_size=batch_size, passes=size.epochs)
            assert (how == "live") == bool(route.reason), route.reason
            with tempfile.TemporaryDirectory() as folder:
                return fit(tuned, data, config, seed=0, folder=Path(folder), objective=route.objective).losses

        return timed(train)

    def theirs() -> tuple[float, list[float]]:
        plain = model(work.shape, torch.float32, size.small)
        trained = set(method.select(anatomy := read_anatomy(plain))) | set(anatomy.task_head)
        for name, parameter in plain.named_parameters():
            parameter.requires_grad_(name in trained)
        collator = peer.pad_classified if work.shape == "c" else None
        return timed(lambda: peer.train(plain, in_order, config, collator))

    ratios, of_live, gaps = [], [], []
    for _ in range(size.rounds):
        (cached, losses), (live, live_losses), (their, their_losses) = ours("auto"), ours("live"), theirs()
        ratios.append(their / cached)
        of_live.append(their / live)
        gaps += [abs(a - b) for a, b in zip(losses, their_losses, strict=True)]
        gaps += [abs(a - b) for a, b in zip(live_losses, their_losses, strict=True)]
    tolerance = 1e-3 if work.dtype == "float32" else 5e-2
    assert max(gaps) < tolerance, f"{work}: losses differ by {max(gaps)}"
    return {**asdict(work), "ratio": round(statistics.median(ratios), 2), "ratios": [round(r, 2) for r in ratios],
            "live_ratio": round(statistics.median(of_live), 2), "largest_loss_difference": max(gaps),
            "epochs": size.epochs, "steps": config.steps, "tokens": size.epochs * sum(lengths)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batches", type=int, default=12, help="in an epoch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shapes", nargs="*", default=["c", "b12"])
    parser.add_argument("--small", action="store_true", help="a dry run on small models that writes no results")
    options = parser.parse_args()
    size = Size(options.epochs, options.batches, options.rounds, options.small)
    transformers.logging.set_verbosity_error()
    found = []
    native = choose_dtype("auto", torch.device("cpu")) is torch.bfloat16
    for work in [work for work in WORKS if work.shape in options.shapes]:
        if work.dtype == "bfloat16" and not native:
            print(f"{work}: left out, this machine multiplies bfloat16 slower than float32")
            continue
        found.append(measure(work, size))
        print(json.dumps(found[-1]))
    environment = {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peer.peft.__version__,
                   "threads": torch.get_num_threads(), "machine": platform.machine()}  # fmt: skip
    if not options.small:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps({"environment": environment, "results": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
