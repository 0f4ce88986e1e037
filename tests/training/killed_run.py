"""A training run for test_checkpoint.py to kill; importable without pytest."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.bases import build
from tests.rows import random_rows
from tunewise.engine.objectives import NextToken
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.models import aside
from tunewise.training.config import TrainConfig
from tunewise.training.loop import fit

STEPS, CHECKPOINT_EVERY = 80, 5
CONFIG = TrainConfig(
    steps=STEPS, batch_size=2, accumulation=2, learning_rate=1e-2, evaluate_every=0.7, checkpoint_every=CHECKPOINT_EVERY
)


LORA = {"name": "lora", "rank": 4, "dropout": 0.2}


def carry_out(folder: str, method: str | dict[str, object] = LORA, most_in_memory: int = 1 << 28) -> None:
    """Train in `folder`, from its checkpoint where it has one; dropout in the deltas and in the base's attention.

    Originals and the best state of more than `most_in_memory` bytes lie on the disk.
    """
    torch.set_num_threads(1)
    aside.LARGEST_IN_MEMORY_BYTES = most_in_memory
    model = build("llama", torch.float32)
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.1
    tuned = attach(model, parse_method(method), seed=1)
    rows = random_rows(24)

    def dev_score() -> float:
        """Wanders up and down as training goes on, and draws random numbers as a careless metric might."""
        return float(sum(tensor.sum() for tensor in tuned.state().values()).sin()) + float(torch.rand(()))

    result = fit(
        tuned, rows, CONFIG, seed=3, folder=Path(folder), objective=NextToken(0, tuned.prefix_ids), dev_score=dev_score
    )
    losses = torch.tensor(result.losses, dtype=torch.float64)
    save_file({**tuned.state(), "losses": losses}, Path(folder) / "result.safetensors")


if __name__ == "__main__":
    carry_out(sys.argv[1])
