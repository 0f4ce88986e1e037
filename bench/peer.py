"""The peer: Hugging Face peft + Trainer at their defaults, doing the steps that tunewise does on the same rows."""

import tempfile
from collections.abc import Callable, Sequence

import peft
import torch
import transformers
from torch.utils.data import Sampler, SequentialSampler
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments

from tunewise.data.encode import Encoded
from tunewise.methods.attach import Tuned
from tunewise.training.config import TrainConfig

IGNORED = -100


def with_lora(model: PreTrainedModel, tuned: Tuned, targets: Sequence[str]) -> peft.PeftModel:
    """`model` with peft's LoRA, started from the same A and B as `tuned`."""
    method = tuned.method.configuration()
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", r=method["rank"], lora_alpha=method["alpha"], target_modules=list(targets)
    )
    wrapped = peft.get_peft_model(model, config)
    modules = {site.name: site.module for site in tuned.anatomy.sites}
    with torch.no_grad():
        for name, tensor in tuned.state().items():
            _, rest = name.split(".", 1)
            site, matrix = rest.rsplit(".", 1)
            wrapped.get_parameter(f"base_model.model.{modules[site]}.{matrix}.default.weight").copy_(tensor)
    return wrapped


def train(
    model: PreTrainedModel | peft.PeftModel,
    rows: Sequence[Encoded],
    config: TrainConfig,
    collator: Callable[[Sequence[Encoded]], dict[str, torch.Tensor]] | None = None,
) -> list[float]:
    """Train with `transformers.Trainer` over `rows` in the order given; the loss of every step.

    `collator` makes the batches: of a language model's labels where none is given, or `pad_classified`.
    """
    losses: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=config.batch_size,
            gradient_accumulation_steps=config.accumulation,
            max_steps=config.steps,
            learning_rate=config.learning_rate,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_grad_norm=config.clip,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        )
        trainer = _InOrder(
            model=model,
            args=arguments,
            train_dataset=list(rows),
            data_collator=collator or _pad_right,
            callbacks=[_Losses(losses)],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    return losses


class _InOrder(transformers.Trainer):
    def _get_train_sampler(self, *_: object) -> Sampler:
        return SequentialSampler(self.train_dataset)


class _Losses(TrainerCallback):
    def __init__(self, losses: list[float]) -> None:
        self.losses = losses

    def on_log(self, args, state, control, logs=None, **_: object) -> None:
        if logs and "loss" in logs:
            self.losses.append(logs["loss"])


def pad_classified(rows: Sequence[Encoded]) -> dict[str, torch.Tensor]:
    """Texts with one class each, padded on the right."""
    return {**_padded(rows), "labels": torch.tensor([row.labels[0] for row in rows])}


def _pad_right(rows: Sequence[Encoded]) -> dict[str, torch.Tensor]:
    width = max(len(row.ids) for row in rows)
    labels = [[*row.labels, *[IGNORED] * (width - len(row.ids))] for row in rows]
    return {**_padded(rows), "labels": torch.tensor(labels)}


def _padded(rows: Sequence[Encoded]) -> dict[str, torch.Tensor]:
    width = max(len(row.ids) for row in rows)
    padded = [(row, width - len(row.ids)) for row in rows]
    return {
        "input_ids": torch.tensor([[*row.ids, *[0] * n] for row, n in padded]),
        "attention_mask": torch.tensor([[1] * len(row.ids) + [0] * n for row, n in padded]),
    }
