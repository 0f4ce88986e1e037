"""A small random base on disk, with a tokenizer of its own, and data files of every shape."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = "the boat was late wet but soup hot good bad positive negative message about text label".split()


def make_base(folder: Path, seed: int = 0) -> Path:
    """A two-layer Llama of 30k parameters with a byte-level vocabulary of 300, context 128."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<pad>", "<bos>", "<eos>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 4, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", model_max_length=128
    )
    config = LlamaConfig(
        vocab_size=len(fast), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(seed)
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 rows with text and label that a model can learn."""
    path = tmp_path_factory.mktemp("data") / "reviews.csv"
    rows = [
        f"the {WORDS[i % 7]} was {'good' if i % 2 else 'bad'} {i},{'positive' if i % 2 else 'negative'}"
        for i in range(60)
    ]
    path.write_text("text,label\n" + "\n".join(rows) + "\n", "utf-8")
    return path


@pytest.fixture(scope="session")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 rows with messages."""
    path = tmp_path_factory.mktemp("data") / "chats.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": f"say {i}"}, {"role": "assistant", "content": f"good {i}"}]}
        for i in range(30)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 rows with prompt and completion, as tsv."""
    path = tmp_path_factory.mktemp("data") / "pairs.tsv"
    path.write_text("prompt\tcompletion\n" + "".join(f"count {i}\tthe {i} boat\n" for i in range(30)), "utf-8")
    return path


@pytest.fixture(autouse=True)
def quick(without_a_fresh_process: None) -> None:
    """The run that test_verbs looks into closely is made before this takes effect, and has that proof."""
