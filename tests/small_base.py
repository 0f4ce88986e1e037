"""A random base on disk with a tokenizer of its own, and a task that it can learn, for whole runs in a second."""

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.bytes_tokenizer import VOCABULARY, bytes_tokenizer

QUICK = {"train.steps": 6, "train.batch_size": 8, "train.learning_rate": 1e-2}


def write_base(folder: Path, seed: int = 0, width: int = 32) -> Path:
    """A two-layer Llama with context 96."""
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=96, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    bytes_tokenizer().save_pretrained(folder)
    return folder


def write_reviews(path: Path, n: int = 60) -> Path:
    """Rows of text and label; the label is told by one word."""
    rows = [f"the {'soup' if i % 3 else 'boat'} {i} was {'good' if i % 2 else 'bad'},{i % 2}" for i in range(n)]
    path.write_text("text,label\n" + "\n".join(rows) + "\n", "utf-8")
    return path
