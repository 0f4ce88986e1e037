"""How long and how fast to train: the `train:` section of a recipe."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, Field, field_validator, model_validator

from tunewise.config import Strict

ADAMW = "adamw"
TENSORBOARD = "tensorboard"
BETA1, EPSILON, DECAY = 0.9, 1e-8, 0.1
OPTIMISERS_OF_TRAINER = {
    "adamw_hf": ADAMW,
    "adamw_torch": ADAMW,
    "adamw_torch_fused": ADAMW,
    "adamw_bnb_8bit": "adamw_8bit",
    "paged_adamw_32bit": "paged_adamw",
    "lion_32bit": "lion",
    "paged_lion_32bit": "paged_lion",
}
"""What transformers' `optim` calls those of our optimisers that have another name here."""
SCHEDULES_OF_TRAINER = {"constant_with_warmup": "constant"}
"""The same of its `lr_scheduler_type`."""
ELSEWHERE_A_SCHEDULE = {
    "cosine_with_min_lr": "train.schedule=cosine train.floor=SHARE of the peak",
    "cosine_warmup_with_min_lr": "train.schedule=cosine train.floor=SHARE of the peak",
    "polynomial": "train.schedule=linear train.floor=SHARE of the peak, its power of 1",
    "cosine_with_restarts": "train.schedule=cosine, which is one cycle of it",
    "wsd": "train.schedule=warmup_stable_decay",
}
"""Schedules of others that are something more than another name."""
READ_BY = {
    "floor": ("linear", "cosine", "warmup_stable_decay"),
    "decay": ("warmup_stable_decay",),
    "beta1": (ADAMW, "lion", "muon"),
    "beta2": (ADAMW, "lion", "muon"),
    "epsilon": (ADAMW, "muon"),
    "momentum": ("sgd", "muon"),
}
"""Field -> the schedules, or the rules of optimisers, on which it has an effect."""


class TrainConfig(Strict):
    """Everything about the optimisation that is not the method, the data or the seed."""

    epochs: float = Field(3.0, gt=0, validation_alias="num_train_epochs")
    """Passes over the training rows; may be a fraction."""
    steps: int | None = Field(None, gt=0, validation_alias="max_steps")
    """Optimiser steps; where given it replaces `epochs`."""
    batch_size: int = Field(8, gt=0, validation_alias="per_device_train_batch_size")
    """Rows in one forward and backward."""
    accumulation: int = Field(1, gt=0, validation_alias="gradient_accumulation_steps")
    """Batches whose gradients make one step; each counts by its label tokens, as one large batch would."""
    learning_rate: float | None = Field(None, gt=0)
    """Peak learning rate; None takes the method's own."""
    schedule: Literal["linear", "cosine", "constant", "inverse_sqrt", "warmup_stable_decay"] = Field(
        "cosine", validation_alias="lr_scheduler_type"
    )
    """The learning rate after warm-up: falling along a line or half a cosine, constant, by the inverse root of the
    steps, or constant and at the end along half a cosine."""
    warmup: float = Field(0.06, ge=0, le=1, validation_alias="warmup_ratio")
    """Share of the steps over which the learning rate rises from zero to its peak."""
    warmup_steps: int | None = Field(None, ge=0)
    """Steps of that rise; where given they replace `warmup`."""
    decay: float = Field(DECAY, gt=0, le=1)
    """Share of the steps over which `warmup_stable_decay` falls."""
    floor: float = Field(0.0, ge=0, lt=1, validation_alias="min_lr_rate")
    """Share of the peak to which a schedule falls that would else fall to zero."""
    optimiser: Literal[
        "adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit", "lion", "lion_8bit", "paged_lion", "paged_lion_8bit",
        "adafactor", "muon", "sgd",
    ] = Field(ADAMW, validation_alias=AliasChoices("optim", "optimizer"))  # fmt: skip
    """The update rule. Moments are in float32 or in 8 bits; where they are paged, a GPU that is full puts them into the
    host's memory. Those in 8 bits, the paged ones and Lion need the extra quant. Muon updates the matrices inside
    layers, AdamW the rest."""
    beta1: float = Field(BETA1, ge=0, lt=1, validation_alias="adam_beta1")
    """How much of the mean gradient AdamW and Lion keep at each step."""
    beta2: float | None = Field(None, ge=0, lt=1, validation_alias="adam_beta2")
    """How much of the mean square AdamW keeps, and of the mean gradient Lion for its next step; None takes 0.999 and
    0.99."""
    epsilon: float = Field(EPSILON, gt=0, validation_alias="adam_epsilon")
    """What AdamW adds to the root that it divides by."""
    momentum: float | None = Field(None, gt=0, lt=1)
    """How much of the mean gradient sgd and muon keep; None takes 0.9 and 0.95."""
    weight_decay: float = Field(0.0, ge=0)
    """Decay of tensors of two and more dimensions, apart from the gradient; of sgd it is part of the gradient."""
    clip: float | None = Field(1.0, gt=0, validation_alias="max_grad_norm")
    """Largest norm of the whole gradient; None clips nothing."""
    label_smoothing: float = Field(0.0, ge=0, lt=1, validation_alias="label_smoothing_factor")
    """Share of each label that is spread over all classes, or over the whole vocabulary, in the loss that is minimised;
    evaluations tell the plain one."""
    class_weights: Literal["balanced"] | dict[str, Annotated[float, Field(gt=0)]] | None = Field(
        None, validation_alias="class_weight"
    )
    """What each class or tag counts in the loss that is minimised, {rare: 5}, one that is not named 1; balanced weighs
    each by one over how often it is trained on."""
    max_length: int = Field(512, gt=1)
    """Longest training row in tokens, cut to the base's context where that is shorter."""
    evaluate_every: float | None = Field(1.0, gt=0)
    """Epochs between evaluations on dev; None keeps the last state without looking."""
    patience: int | None = Field(None, gt=0)
    """Evaluations without a better dev score after which training stops; None never stops early."""
    packing: bool = True
    """Rows, and the prompts of evaluations, behind one another without padding, where the base runs so; batches and
    losses are the same."""
    lanes: bool = True
    """In one batch with other runs of a comparison, where that is faster; each ends as it does alone."""
    trunk: Literal["auto", "cached", "live"] = "auto"
    """Layers below everything that is trained or attached: auto runs them once for each row and keeps what leaves them,
    where that changes nothing but rounding; cached does so too where dropout acts in them, which is then off; live runs
    them at every step."""
    checkpoint_every: int = Field(200, ge=0, validation_alias="save_steps")
    """Steps between checkpoints; 0 writes one only when training is interrupted."""
    checkpointing: bool = Field(False, validation_alias="gradient_checkpointing")
    """Compute activations again in the backward instead of keeping them: less memory, about a third more time."""
    report_to: tuple[Literal["tensorboard"], ...] = ()
    """Who is told of every step while the run goes on; needs the extra track."""

    @field_validator("optimiser", mode="before")
    @classmethod
    def _as_the_trainer_calls_it(cls, value: Any) -> Any:
        return OPTIMISERS_OF_TRAINER.get(value, value) if isinstance(value, str) else value

    @field_validator("schedule", mode="before")
    @classmethod
    def _as_the_trainer_calls_that(cls, value: Any) -> Any:
        if isinstance(value, str) and value in ELSEWHERE_A_SCHEDULE:
            raise ValueError(f"write {ELSEWHERE_A_SCHEDULE[value]}")
        return SCHEDULES_OF_TRAINER.get(value, value) if isinstance(value, str) else value

    @field_validator("report_to", mode="before")
    @classmethod
    def _one_or_none(cls, value: Any) -> Any:
        if value in (None, "none", ["none"]):
            return ()
        named = [value] if isinstance(value, str) else value
        if isinstance(named, list | tuple) and (others := [name for name in named if name != TENSORBOARD]):
            told = f"{others[0]!r} is not told by itself, as tensorboard is"
            raise ValueError(f"{told}; log.jsonl has every step, and from Python progress=WATCHER is told of it")
        return named

    @field_validator("warmup_steps", mode="before")
    @classmethod
    def _steps_are_whole(cls, value: Any) -> Any:
        if isinstance(value, float) and 0 < value < 1:
            raise ValueError(f"a share of the steps is train.warmup={value}")
        return value

    @model_validator(mode="after")
    def _of_effect(self) -> Self:
        for name, readers in READ_BY.items():
            chosen = self.schedule if name in ("floor", "decay") else self.rule
            if getattr(self, name) != type(self).model_fields[name].default and chosen not in readers:
                raise ValueError(f"{name} has no effect on {chosen}, only on {', '.join(readers)}")
        return self

    @property
    def rule(self) -> str:
        """The optimiser's rule, however its moments are kept: adamw, lion, adafactor, muon or sgd."""
        return self.optimiser.removeprefix("paged_").removesuffix("_8bit")

    @property
    def by_bitsandbytes(self) -> bool:
        """Whether the optimiser is one of bitsandbytes: Lion, and AdamW in 8 bits or paged."""
        return self.rule == "lion" or self.optimiser != self.rule

    @property
    def betas(self) -> tuple[float, float]:
        """Of AdamW, Lion, and AdamW beside Muon."""
        return self.beta1, (0.99 if self.rule == "lion" else 0.999) if self.beta2 is None else self.beta2

    def n_warmup(self, n_steps: int) -> int:
        """Steps of warm-up, of so many in all; as `TrainingArguments.get_warmup_steps` rounds them, in floats (0.07 of
        100 steps are 8)."""
        return math.ceil(self.warmup * n_steps) if self.warmup_steps is None else self.warmup_steps

    @field_validator("class_weights", mode="before")
    @classmethod
    def _labels_as_text(cls, value: Any) -> Any:
        """YAML reads 0 and true as a number and a truth value; of a label there is one way to write those."""
        if not isinstance(value, Mapping):
            if value not in (None, "balanced"):
                raise ValueError("should be balanced, or {CLASS: WEIGHT} of some of them")
            return value
        return {str(name).lower() if isinstance(name, bool) else str(name): weight for name, weight in value.items()}

    def steps_per_epoch(self, n_rows: int) -> int:
        """Optimiser steps in one pass over so many rows."""
        return math.ceil(math.ceil(n_rows / self.batch_size) / self.accumulation)

    def n_drawn(self, n_rows: int) -> int:
        """Rows that all steps see: the last batch of an epoch may be short."""
        epochs, steps = divmod(self.n_steps(n_rows), self.steps_per_epoch(n_rows))
        return epochs * n_rows + min(n_rows, steps * self.batch_size * self.accumulation)

    def n_steps(self, n_rows: int) -> int:
        """Optimiser steps of a whole run."""
        return self.steps or max(1, round(self.epochs * self.steps_per_epoch(n_rows)))
