"""A shape as a user has it: a folder with weights and a tokenizer, and a folder of rows; words stand for token ids."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from bench.shapes import CLASSES, SHAPES, build, rows

SPECIAL = ("[PAD]", "[BEGIN]", "[END]", "[UNK]")
ASKED = "Label:"  # what the prompt of a text and label ends with


def write_base(shape: str, folder: Path) -> Path:
    """The weights of a shape, a classifier's without the classifier, and a tokenizer of whole words."""
    model = build(shape, torch.float32)
    is_classifier = SHAPES[shape].kind == "classifier"
    model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id = 1, 2, 0
    (model.base_model if is_classifier else model).save_pretrained(folder)
    _tokenizer(SHAPES[shape].vocabulary, ends=is_classifier).save_pretrained(folder)
    return folder


def _tokenizer(vocabulary: int, *, ends: bool) -> PreTrainedTokenizerFast:
    named = [*SPECIAL, ASKED, *CLASSES]
    words = [*named, *(f"w{number}" for number in range(len(named), vocabulary))]
    raw = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    single, special = ("[BEGIN] $A [END]", [("[BEGIN]", 1), ("[END]", 2)]) if ends else ("[BEGIN] $A", [("[BEGIN]", 1)])
    raw.post_processor = processors.TemplateProcessing(single=single, special_tokens=special)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", bos_token="[BEGIN]", eos_token="[END]", unk_token="[UNK]",
        cls_token="[BEGIN]", sep_token="[END]",
    )  # fmt: skip


def write_rows(shape: str, folder: Path, sizes: Sequence[int]) -> Path:
    """train.jsonl, dev.jsonl and test.jsonl of so many rows, with a text and a label; a text's first word tells it."""
    left = iter(rows(shape, sum(sizes)))
    for part, n in zip(("train", "dev", "test"), sizes, strict=True):
        told = [next(left).ids for _ in range(n)]
        _write(
            folder / f"{part}.jsonl",
            ({"text": _text(ids), "label": CLASSES[ids[0] % len(CLASSES)]} for ids in told),
        )
    return folder


def write_documents(shape: str, folder: Path, n: int) -> Path:
    """Plain texts, on which what was forgotten is measured."""
    texts = [{"text": _text(row.ids)} for row in rows(shape, n + 4)]
    _write(folder / "train.jsonl", texts[:2])
    _write(folder / "dev.jsonl", texts[2:4])
    _write(folder / "test.jsonl", texts[4:])
    return folder


def _text(ids: Sequence[int]) -> str:
    return " ".join(f"w{number}" for number in ids)


def _write(path: Path, lines: Iterable[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
