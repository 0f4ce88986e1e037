"""The models and rows that are measured: random weights, lengths as instruction data has them.

a: a small Llama. b: SmolLM2-135M's shape. b12: twelve of its layers. c: MiniLM's shape with a classifier of four
classes. d: T5-small.
"""

import gc
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from tunewise.data.encode import Encoded
from tunewise.engine.batches import IGNORED
from tunewise.models.anatomy import read_anatomy
from tunewise.models.heads import TaskHead
from tunewise.models.load import Base
from tunewise.models.quantise import loading, pack_ends

CLASSES = ("a", "b", "c", "d")


@dataclass(frozen=True)
class Shape:
    """How a model and its rows are made, and how many rows make a batch."""

    model: Callable[[], PreTrainedModel]
    vocabulary: int
    kind: str
    batch_size: int = 8
    steps: int = 24


def _llama(vocabulary: int, hidden: int, inner: int, layers: int, heads: int, key_values: int) -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=key_values, max_position_embeddings=2048,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def _bert() -> PreTrainedModel:
    config = BertConfig(
        vocab_size=30_522, hidden_size=384, intermediate_size=1_536, num_hidden_layers=6, num_attention_heads=12,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=len(CLASSES),
    )  # fmt: skip
    return BertForSequenceClassification(config)


def _t5() -> PreTrainedModel:
    config = T5Config(vocab_size=32_128, dropout_rate=0.0, decoder_start_token_id=0)  # its defaults are T5-small
    return T5ForConditionalGeneration(config)


SHAPES = {
    "a": Shape(lambda: _llama(4_096, 256, 688, 6, 4, 4), 4_096, "decoder"),
    "b12": Shape(lambda: _llama(32_000, 576, 1_536, 12, 9, 3), 32_000, "decoder", steps=8),
    "b": Shape(lambda: _llama(49_152, 576, 1_536, 30, 9, 3), 49_152, "decoder", steps=4),
    "c": Shape(_bert, 30_522, "classifier", batch_size=32),
    "d": Shape(_t5, 32_128, "encoder_decoder", steps=12),
}


def build(shape: str, dtype: torch.dtype) -> PreTrainedModel:
    """The model of a shape; the same weights at every call."""
    torch.manual_seed(0)
    return SHAPES[shape].model().to(dtype)


def load(shape: str, dtype: torch.dtype, quantise: str = "") -> PreTrainedModel:
    """The decoder of a shape, read from a folder in a format, or plain; as transformers reads it."""
    model = build(shape, dtype)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        storage = loading(model.config, quantise, dtype, torch.device("cpu"))
        loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **storage)
    pack_ends(loaded, quantise)
    del model
    gc.collect()  # what it was read from is none of its memory
    return loaded


class _Padding:
    """All that an objective asks of a tokenizer."""

    pad_token_id = 0


def as_base(model: PreTrainedModel, shape: str) -> Base:
    """The base that an objective is made for."""
    head = TaskHead("classes", CLASSES) if SHAPES[shape].kind == "classifier" else TaskHead()
    return Base(model, _Padding(), read_anatomy(model), shape, "", model.dtype, head)


def rows(shape: str, n: int) -> list[Encoded]:
    """Rows of log-normal lengths: prompts of median 60 (20 to 200), answers 30 (5 to 150), or texts 38 (8 to 256).

    The class of a text is told by its first token.
    """
    generator = torch.Generator().manual_seed(0)
    vocabulary, kind = SHAPES[shape].vocabulary, SHAPES[shape].kind

    def ids(median: float, deviation: float, low: int, high: int) -> list[int]:
        length = (median * torch.exp(deviation * torch.randn((), generator=generator))).clamp(low, high)
        return torch.randint(3, vocabulary, (int(length),), generator=generator).tolist()

    made = []
    for number in range(n):
        if kind == "classifier":
            text = ids(38, 0.75, 8, 256)
            made.append(Encoded(str(number), tuple(text), (text[0] % len(CLASSES),), len(text), False))
            continue
        prompt, answer = ids(60, 0.6, 20, 200), ids(30, 0.8, 5, 150)
        if kind == "encoder_decoder":
            made.append(Encoded(str(number), tuple(prompt), tuple(answer), len(prompt), False))
        else:
            labels = (*[IGNORED] * len(prompt), *answer)
            made.append(Encoded(str(number), (*prompt, *answer), labels, len(prompt), False))
    return made
