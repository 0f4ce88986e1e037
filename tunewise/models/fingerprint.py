"""Fingerprints: which base, tokenizer and chat template an adapter was made for."""

import hashlib
import json
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tunewise.models.quantise import scales

SAMPLES_PER_TENSOR = 1 << 20
WIDTHS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

Checksums = dict[str, int]
_TOKENIZERS: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[object, str]] = WeakKeyDictionary()
_CUTTING: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[str, str]] = WeakKeyDictionary()


def of_model(model: PreTrainedModel) -> str:
    """A digest of the names, shapes and values of the model's parameters.

    Values are rounded to bfloat16, so that a base has one fingerprint in whichever precision it is loaded, and of
    a tensor with more than 2²⁰ values that many, evenly spaced, are read: seconds for a 7B model. A base whose weights
    are quantised is another base: its codes and their scales are what is read.
    """
    digest = hashlib.sha256(model.config.model_type.encode())
    for name, parameter in (*model.named_parameters(), *scales(model)):
        flat = parameter.detach().flatten()
        step = max(1, flat.numel() // SAMPLES_PER_TENSOR)
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(flat[::step].to(torch.bfloat16).view(torch.int16).cpu().numpy().tobytes())
    return digest.hexdigest()[:32]


def checksums(model: PreTrainedModel) -> Checksums:
    """The sum of each parameter's raw bits, and of a packed one's scales: equal sums say that no weight has moved."""
    return {name: _sum_of_bits(p.detach()) for name, p in (*model.named_parameters(), *scales(model))}


def _sum_of_bits(tensor: Tensor) -> int:
    """As 64-bit integers where they make up whole ones; narrow ones are first copied into wide ones, which takes 30
    times as long. Codes are summed one by one, as folders of adapters hold their sums."""
    flat = tensor.contiguous().flatten()
    if not tensor.is_floating_point() or flat.nbytes % 8:
        return int(flat.view(WIDTHS[flat.element_size()]).sum(dtype=torch.int64))
    if flat.storage_offset() * flat.element_size() % 8:
        flat = flat.clone()
    return int(flat.view(torch.int64).sum())


def of_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """A digest of the vocabulary with its ids, the special tokens, and how a probe text is cut."""
    probe = "Naïve café: 42 tests_of\n\ttokenising, “quotes” & emoji 🙂"
    told = [tokenizer.special_tokens_map, tokenizer.encode(probe)]
    size = len(tokenizer)  # a vocabulary is slow to read, and can but grow
    known, digest = _TOKENIZERS.get(tokenizer, (None, ""))
    if known != (size, told):
        content = [sorted(tokenizer.get_vocab().items()), *told]
        digest = _digest(json.dumps(content, ensure_ascii=False, default=str))
        _TOKENIZERS[tokenizer] = (size, told), digest
    return digest


def of_cutting(tokenizer: PreTrainedTokenizerBase) -> str:
    """A digest of all that says how the tokenizer cuts a text: the above, and of a fast one its rules and merges."""
    mark = of_tokenizer(tokenizer)  # whose calls also take away what truncation and padding there was
    known, digest = _CUTTING.get(tokenizer, ("", ""))
    if known != mark:
        rules = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else type(tokenizer).__qualname__
        digest = _digest(f"{mark} {tokenizer.split_special_tokens} {rules}")
        _CUTTING[tokenizer] = mark, digest
    return digest


def of_chat_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """A digest of the tokenizer's own chat template, or None where it has none."""
    return None if tokenizer.chat_template is None else _digest(json.dumps(tokenizer.chat_template))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
