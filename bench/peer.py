"""The peer: Hugging Face peft + Trainer at their defaults, doing the steps that tunewise does on the same rows."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from safetensors.torch import load_file
from torch.utils.data import Sampler, SequentialSampler
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments

from tunewise.data.encode import Encoded
from tunewise.engine.batches import IGNORED
from tunewise.methods.attach import Tuned
from tunewise.methods.store import save_adapter
from tunewise.training.config import TrainConfig


def adapted(model: PreTrainedModel, tuned: Tuned) -> PreTrainedModel | peft.PeftModel:
    """`model` with the method of `tuned` as the peer has it, started from the same values.

    A method that adds something is peft's, read from the adapter that `tuned` saves; one that selects parameters of
    the base is Trainer's, with the others frozen.
    """
    if not tuned.deltas:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in tuned.selected)
        return model
    with tempfile.TemporaryDirectory() as folder:
        save_adapter(tuned, folder)
        return trainable(model, folder)


def trainable(model: PreTrainedModel, folder: str) -> peft.PeftModel:
    """`model` with the adapter in `folder`, to be trained on; peft's own `from_pretrained` refuses that for prompts."""
    config = peft.PeftConfig.from_pretrained(folder)
    if not config.is_prompt_learning:
        return peft.PeftModel.from_pretrained(model, folder, is_trainable=True)
    config.inference_mode = False
    adapted = peft.get_peft_model(model, config)
    peft.set_peft_model_state_dict(adapted, load_file(Path(folder) / "adapter_model.safetensors"))
    return adapted


def arguments(config: TrainConfig, folder: str) -> dict[str, Any]:
    """What `TrainingArguments` is told to train as `config` says."""
    return {
        "output_dir": folder,
        "per_device_train_batch_size": config.batch_size,
        "per_device_eval_batch_size": config.batch_size,
        "gradient_accumulation_steps": config.accumulation,
        "max_steps": config.steps,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "label_smoothing_factor": config.label_smoothing,
        "max_grad_norm": config.clip,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def trained(
    model: PreTrainedModel | peft.PeftModel,
    rows: Sequence[Encoded],
    config: TrainConfig,
    more: Mapping[str, Any] | None = None,
    ends: list[float] | None = None,
) -> tuple[transformers.Trainer, list[float]]:
    """Train with `transformers.Trainer` over `rows` in the order given; the trainer, and the loss of every step.

    `more` are further arguments of Trainer's; `ends` takes up when each step had ended.
    """
    losses: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        told = {
            **arguments(config, folder),
            "use_cpu": not torch.cuda.is_available(),
            "remove_unused_columns": False,
            "dataloader_pin_memory": False,
            **(more or {}),
        }
        trainer = _InOrder(
            model=model,
            args=TrainingArguments(**told),
            train_dataset=list(rows),
            data_collator=_pad_right,
            callbacks=[Losses(losses, ends)],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    return trainer, losses


class _InOrder(transformers.Trainer):
    def _get_train_sampler(self, *_: object) -> Sampler:
        return SequentialSampler(self.train_dataset)


class Losses(TrainerCallback):
    """The loss of every step, and when it was there."""

    def __init__(self, losses: list[float], ends: list[float] | None = None) -> None:
        self.losses, self.ends = losses, [] if ends is None else ends

    def on_log(self, args, state, control, logs=None, **_: object) -> None:
        if logs and "loss" in logs:
            self.losses.append(logs["loss"])
            self.ends.append(time.perf_counter())


def _pad_right(rows: Sequence[Encoded]) -> dict[str, torch.Tensor]:
    """What Trainer's own collators make: the label of a text stands alone, those of tokens are padded."""
    has_one_label = len(rows[0].labels) == 1 and len(rows[0].ids) > 1
    labels = [row.labels[0] for row in rows] if has_one_label else _rectangle([row.labels for row in rows], IGNORED)
    return {
        "input_ids": torch.tensor(_rectangle([row.ids for row in rows], 0)),
        "attention_mask": torch.tensor(_rectangle([(1,) * len(row.ids) for row in rows], 0)),
        "labels": torch.tensor(labels),
    }


def _rectangle(rows: Sequence[Sequence[int | float]], padding: int) -> list[list[int | float]]:
    width = max(map(len, rows))
    return [[*row, *[padding] * (width - len(row))] for row in rows]
