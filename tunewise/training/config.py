"""How long and how fast to train: the `train:` section of a recipe."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, field_validator

from tunewise.config import Strict

ADAMW = "adamw"
NAMES_OF_TRAINER = {
    "adamw_torch": ADAMW,
    "adamw_torch_fused": ADAMW,
    "adamw_bnb_8bit": "adamw_8bit",
    "paged_adamw_32bit": "paged_adamw",
}
"""What transformers' `optim` calls those of our optimisers that have another name here."""


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
    schedule: Literal["linear", "cosine", "constant"] = Field("cosine", validation_alias="lr_scheduler_type")
    """The learning rate after warm-up: to zero along a line or half a cosine, or constant."""
    warmup: float = Field(0.06, ge=0, le=1, validation_alias="warmup_ratio")
    """Share of the steps over which the learning rate rises from zero to its peak."""
    optimiser: Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"] = Field(
        ADAMW, validation_alias=AliasChoices("optim", "optimizer")
    )
    """AdamW, with its moments in float32 or in 8 bits; where they are paged, a GPU that is full puts them into the
    host's memory. All but `adamw` need the extra quant."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's decay, on tensors of two and more dimensions."""
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

    @field_validator("optimiser", mode="before")
    @classmethod
    def _as_the_trainer_calls_it(cls, value: Any) -> Any:
        return NAMES_OF_TRAINER.get(value, value) if isinstance(value, str) else value

    @field_validator("class_weights", mode="before")
    @classmethod
    def _labels_as_text(cls, value: Any) -> Any:
        """YAML reads 0 and true as a number and a truth value; of a label there is one way to write those."""
        if not isinstance(value, Mapping):
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
