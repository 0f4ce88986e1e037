"""The comparison as a practitioner writes it: arms × seeds in a loop, each with peft and `transformers.Trainer`.

For every run the base is loaded anew, adapted, trained at Trainer's defaults and asked the dev and test rows: a
classifier by `Trainer.predict`, a decoder for the logits of the label words behind the prompt, 16 prompts of like
length a batch, padded on the right, the head only where a prompt ends. LoRA, IA3, prompt and prefix tuning are peft's.
Full, the head, the top layers and the biases (those of a decoder without any come with its configuration) are Trainer
with the rest frozen. Bottlenecks, which peft does not have, are modules in forward hooks, as AdapterHub's are.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerBase

from bench import peer
from bench.on_disk import ASKED
from tunewise.data.encode import Encoded
from tunewise.engine.batches import IGNORED, epoch_batches
from tunewise.methods.attach import Tuned, attach
from tunewise.methods.base import Method
from tunewise.methods.store import PEFT_CONFIG, save_adapter
from tunewise.models.heads import draw_head
from tunewise.models.load import Base
from tunewise.training.config import TrainConfig

BATCH = 16  # prompts in one forward of a decoder that is asked
Rows = Sequence[Mapping[str, str]]  # text and label


@dataclass(frozen=True)
class Start:
    """How a run begins: the values that ours begins with."""

    folder: str = ""
    """An adapter for peft; "" where the peer has it without peft."""
    selected: Mapping[str, Tensor] = field(default_factory=dict)
    """Parameters of the model that are trained, and what they are at first."""
    bottlenecks: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    """For each module with one behind it, its weights and biases."""
    has_new_biases: bool = False
    shown: str = ""
    """Demonstrations before every question; where there are any, nothing is trained."""


@dataclass(frozen=True)
class Found:
    """What a run gave."""

    losses: list[float]
    scores: list[list[float]]
    """The log-probability of each label for each test row."""
    seconds: float
    """Spent in Trainer.train."""


def start_of(base: Base, method: Method, seed: int, folder: Path) -> Start:
    """The start of our run of `method` with `seed`, for the peer; what peft reads is written into `folder`."""
    tuned = attach(base.model, method, tokenizer=base.tokenizer, seed=seed)
    try:
        draw_head(base.model, [name for name in base.new_parameters if name in tuned.selected], seed)
        selected = {name: parameter.detach().clone() for name, parameter in tuned.selected.items()}
        if method.name == "bottleneck":
            bottlenecks = {tuned.site(name).module: _bottleneck(tuned, name) for name in tuned.deltas}
            return Start(selected=selected, bottlenecks=bottlenecks)
        if method.name == "bitfit" and tuned.deltas:
            biases = {
                f"{tuned.site(name).module}.bias": delta.state_dict()["bias"][0].clone()
                for name, delta in tuned.deltas.items()
            }
            return Start(selected=selected | biases, has_new_biases=True)
        if not tuned.deltas:
            return Start(selected=selected)
        save_adapter(tuned, folder)
        assert (folder / PEFT_CONFIG).is_file(), method
        return Start(folder=str(folder))
    finally:
        tuned.detach()


def _bottleneck(tuned: Tuned, name: str) -> dict[str, Tensor]:
    ours = tuned.deltas[name].state_dict()
    theirs = {"down.weight": "down", "down.bias": "down_bias", "up.weight": "up", "up.bias": "up_bias"}
    return {theirs_name: ours[own].clone() for theirs_name, own in theirs.items()}


class Bottleneck(nn.Module):
    """y + up(relu(down(y))), the same as AdapterHub's `SeqBnConfig` without its extra norms."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, y: Tensor) -> Tensor:
        return y + self.up(functional.relu(self.down(y)))


def adapted(folder: Path, start: Start, n_classes: int) -> nn.Module:
    """The base, loaded anew, with what is to be trained."""
    if n_classes:
        model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=n_classes)
    else:
        biases = {"attention_bias": True, "mlp_bias": True} if start.has_new_biases else {}
        model = AutoModelForCausalLM.from_pretrained(folder, **biases)
    if start.folder:
        return peer.trainable(model, start.folder)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in start.selected)
    model.load_state_dict(start.selected, strict=False)
    for name, state in start.bottlenecks.items():
        inner, width = state["down.weight"].shape
        bottleneck = Bottleneck(width, inner)
        bottleneck.load_state_dict(state)
        module = model.get_submodule(name)
        module.add_module("bottleneck", bottleneck)
        module.register_forward_hook(lambda module, args, y: module.bottleneck(y))
    return model


def compare(
    folder: Path,
    parts: Mapping[str, Rows],
    labels: Sequence[str],
    starts: Mapping[tuple[str, int], Start],
    configs: Mapping[str, TrainConfig],
    *,
    is_classifier: bool,
) -> dict[tuple[str, int], Found]:
    """Every run of `starts` (arm and seed) on the base in `folder`; rows of the parts train, dev and test."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    read = _texts if is_classifier else _prompts
    train = read(tokenizer, parts["train"], labels)
    found = {}
    for (arm, seed), start in starts.items():
        model, losses, seconds, config = adapted(folder, start, len(labels) * is_classifier), [], 0.0, configs[arm]
        trainer = None
        if not start.shown:
            assert config.steps is not None
            n_epochs = -(-config.steps * config.batch_size // len(train))
            order = [batch for n in range(n_epochs) for batch in epoch_batches(len(train), config.batch_size, seed, n)]
            began = time.perf_counter()
            trainer, losses = peer.trained(model, [train[i] for batch in order for i in batch], config)
            seconds = time.perf_counter() - began
        if is_classifier:
            assert trainer is not None
            logits = [trainer.predict(_texts(tokenizer, parts[part], labels)).predictions for part in ("dev", "test")]
            scores = torch.tensor(logits[-1]).log_softmax(-1).tolist()
        else:
            scores = [label_scores(model, tokenizer, start.shown, parts[part], labels) for part in ("dev", "test")][-1]
        found[arm, seed] = Found(losses, scores, seconds)
    return found


def _texts(tokenizer: PreTrainedTokenizerBase, rows: Rows, labels: Sequence[str]) -> list[Encoded]:
    ids = tokenizer([row["text"] for row in rows], truncation=True, max_length=512)["input_ids"]
    return [
        Encoded("", tuple(one), (labels.index(row["label"]),), 0, False) for one, row in zip(ids, rows, strict=True)
    ]


def _prompts(tokenizer: PreTrainedTokenizerBase, rows: Rows, _: Sequence[str]) -> list[Encoded]:
    """Prompts with their answers, of which alone the loss is taken, and the end token."""
    asked = tokenizer([prompt(row) for row in rows])["input_ids"]
    whole = tokenizer([f"{prompt(row)} {row['label']}" for row in rows])["input_ids"]
    made = []
    for before, ids in zip(asked, whole, strict=True):
        answer = [*ids[len(before) :], tokenizer.eos_token_id]
        made.append(Encoded("", (*before, *answer), (*[IGNORED] * len(before), *answer), len(before), False))
    return made


def prompt(row: Mapping[str, str]) -> str:
    return f"{row['text']}\n{ASKED}"


@torch.no_grad()
def label_scores(
    model: Any, tokenizer: PreTrainedTokenizerBase, shown: str, rows: Rows, labels: Sequence[str]
) -> list[list[float]]:
    """For each row, the log-probability of each label, which is one token, behind its prompt."""
    model.eval()
    ids = tokenizer([shown + prompt(row) for row in rows])["input_ids"]
    options = tokenizer.convert_tokens_to_ids(list(labels))
    ranked = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    scores: list[list[float]] = [[] for _ in rows]
    for places in (ranked[start : start + BATCH] for start in range(0, len(ranked), BATCH)):
        batch = tokenizer.pad({"input_ids": [ids[i] for i in places]}, padding_side="right", return_tensors="pt")
        n_kept = batch["input_ids"].shape[1] - len(ids[places[0]]) + 1
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        logits = model(**inputs, logits_to_keep=n_kept, use_cache=False).logits.log_softmax(-1)
        for row, i in enumerate(places):
            scores[i] = logits[row, len(ids[i]) - len(ids[places[0]]), options].tolist()
    return scores
