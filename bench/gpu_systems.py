"""The systems that bench.gpu measures: ours, and the peers that are installed."""

import importlib.util
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.trainer_pt_utils import get_length_grouped_indices

from bench import peer, peer_trl
from tunewise.data.encode import Encoded
from tunewise.engine.batches import epoch_batches
from tunewise.engine.objectives import NextToken, PackedNextToken
from tunewise.engine.packing import why_not_packed
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.methods.store import save_adapter
from tunewise.models.load import load_tokenizer
from tunewise.training.config import TrainConfig
from tunewise.training.loop import fit
from tunewise.training.memory import Peak
from tunewise.training.progress import Silent

WARM = 2
"""Steps at the beginning of a run that are not counted."""


@dataclass(frozen=True)
class Job:
    """What a system has to do."""

    build: Callable[[str], PreTrainedModel]
    """The base in a format: nf4, or "" for bfloat16."""
    method: Mapping[str, object]
    rows: list[Encoded]
    config: TrainConfig
    quantise: str
    longest: int

    @property
    def is_full(self) -> bool:
        """Whether the base's own weights are trained."""
        return self.method["name"] == "full"

    @property
    def in_order(self) -> list[Encoded]:
        """The rows as our first epoch takes them."""
        batches = epoch_batches(len(self.rows), self.config.batch_size, 0, 0)
        return [self.rows[i] for batch in batches for i in batch]


@dataclass(frozen=True)
class Taken:
    """What a run took."""

    rate: float
    """Tokens a second."""
    losses: list[float]
    peak_bytes: int
    layout: str


@dataclass(frozen=True)
class System:
    """How it is run, what has to be installed for it, and which of its losses are compared to ours."""

    run: Callable[[Job], Taken]
    packages: tuple[str, ...]
    compared: str
    """every step, the first one, or their mean."""
    trains_all: bool = True
    """Whether it trains the base's own weights too."""

    def why_not(self, job: Job) -> str:
        """Why it does not do this job here; "" where it does."""
        packages = (*self.packages, *(("bitsandbytes",) if job.quantise else ()))
        missing = [name for name in packages if importlib.util.find_spec(name) is None]
        if missing:
            return f"{' and '.join(missing)}: not installed"
        return "" if self.trains_all or not job.is_full else "it is measured with adapters alone"


class Clock(Silent):
    """When each step of ours ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def stepped(self, step: int, loss: float, n_tokens: int) -> None:
        self.ends.append(time.perf_counter())


def rate(ends: list[float], tokens: list[int]) -> float:
    """Tokens a second of the steps behind the first few."""
    return sum(tokens[WARM:]) / (ends[-1] - ends[WARM - 1])


def tokens_of(rows: list[Encoded], batch_size: int) -> list[int]:
    """Of each batch of these rows."""
    return [sum(len(row.ids) for row in rows[i : i + batch_size]) for i in range(0, len(rows), batch_size)]


def ours(job: Job) -> Taken:
    model = job.build(job.quantise)
    tuned = attach(model, parse_method(job.method))
    layout = why_not_packed(model, tuned.prefix_ids)
    objective = NextToken(0) if layout else PackedNextToken(0)
    peak, clock = Peak(model.device), Clock()
    with tempfile.TemporaryDirectory() as folder:
        result = fit(tuned, job.rows, job.config, seed=0, folder=Path(folder), objective=objective, progress=clock)
    speed = rate(clock.ends, tokens_of(job.in_order, job.config.batch_size))
    return Taken(speed, result.losses, peak.bytes(), layout or objective.layout)


def adapted(job: Job, model: PreTrainedModel) -> Any:
    """`model` as the peer tunes it, from the values that ours starts from."""
    if job.is_full:
        return model.requires_grad_(True)
    import peft

    tuned = attach(model, parse_method(job.method))
    with tempfile.TemporaryDirectory() as folder:
        save_adapter(tuned, folder)
        tuned.detach()
        return peft.PeftModel.from_pretrained(model, folder, is_trainable=True)


def trainer(job: Job, *, best: bool = False, more: Mapping[str, Any] | None = None) -> Taken:
    """peft + Trainer with bf16=True; what is trained of the base itself is kept in float32, as that asks for.

    At its best batches are of like length, attention is flash-attn's where that is installed, and the base is in
    bfloat16 with its optimiser.
    """
    model = job.build(job.quantise)
    if job.is_full and not best:
        model = model.float()
    data, peak = job.in_order, Peak(model.device)
    if best:
        _take_flash(model)
        lengths = [len(row.ids) for row in data]
        generator = torch.Generator().manual_seed(0)
        order = get_length_grouped_indices(lengths, job.config.batch_size, generator=generator)
        data = [data[i] for i in order]
    is_cuda, ends = model.device.type == "cuda", []
    told = {"bf16": True, "use_cpu": not is_cuda, "dataloader_pin_memory": is_cuda, **(more or {})}
    _, losses = peer.trained(adapted(job, model), data, job.config, told, ends)
    return Taken(rate(ends, tokens_of(data, job.config.batch_size)), losses, peak.bytes(), _layout(model, "padded"))


def trl(job: Job) -> Taken:
    """trl's SFTTrainer with packing and the loss that it takes by default, in batches of as many tokens."""
    model = job.build(job.quantise)
    model = model.float() if job.is_full else model
    _take_flash(model)
    peak, data, is_cuda = Peak(model.device), job.in_order, model.device.type == "cuda"
    counted: list[int] = []
    ends: list[float] = []
    losses: list[float] = []

    class Watch(peer.Losses):
        def on_log(self, args, state, control, logs=None, **more: object) -> None:
            super().on_log(args, state, control, logs, **more)
            if logs and "loss" in logs:
                counted.append(int(logs["num_tokens"]))

    told = {"bf16": True, "use_cpu": not is_cuda}
    loss = peer_trl.trained(adapted(job, model), data, job.config, job.longest, told, Watch(losses, ends))
    steps = [counted[0], *(b - a for a, b in pairwise(counted))]
    return Taken(rate(ends, steps), losses, peak.bytes(), _layout(model, f"packed, {loss}"))


def _take_flash(model: PreTrainedModel) -> None:
    if importlib.util.find_spec("flash_attn") is not None:
        model.set_attn_implementation("flash_attention_2")


def _layout(model: PreTrainedModel, name: str) -> str:
    return f"{name}, {model.config._attn_implementation}"


def liger(job: Job) -> Taken:
    """peft + Trainer on a model whose parts and loss are Liger's kernels."""
    return trainer(job, more={"use_liger_kernel": True})


def unsloth(job: Job) -> Taken:
    """Unsloth's model and adapter, which it reads from a folder, by Trainer."""
    from unsloth import FastLanguageModel

    base, method = job.build(""), parse_method(job.method)
    tuned = attach(base, method)
    names = sorted({tuned.site(name).module.rpartition(".")[2] for name in tuned.deltas})
    tuned.detach()
    with tempfile.TemporaryDirectory() as folder:
        base.save_pretrained(folder)
        load_tokenizer("tiny").save_pretrained(folder)
        model, _ = FastLanguageModel.from_pretrained(
            folder, max_seq_length=job.longest, dtype=torch.bfloat16, load_in_4bit=bool(job.quantise)
        )
    del base, tuned
    model = FastLanguageModel.get_peft_model(
        model, r=job.method["rank"], lora_alpha=job.method["alpha"], lora_dropout=0, bias="none", target_modules=names,
        use_gradient_checkpointing=False,
    )  # fmt: skip
    peak, data, ends = Peak(model.device), job.in_order, []
    _, losses = peer.trained(model, data, job.config, {"bf16": True, "dataloader_pin_memory": True}, ends)
    return Taken(rate(ends, tokens_of(data, job.config.batch_size)), losses, peak.bytes(), "padded")


SYSTEMS = {
    "tunewise": System(ours, (), "every"),
    "peft + Trainer": System(trainer, ("peft", "accelerate"), "every"),
    "peft + Trainer at its best": System(lambda job: trainer(job, best=True), ("peft", "accelerate"), "mean"),
    "trl, packing": System(trl, peer_trl.PACKAGES, "mean"),
    "Liger + Trainer": System(liger, ("liger_kernel", "peft", "accelerate"), "every"),
    "Unsloth": System(unsloth, ("unsloth",), "first", trains_all=False),
}
