"""Activations computed again in the backward instead of kept: transformers' gradient checkpointing, on and off."""

import warnings

from transformers import PreTrainedModel


def recompute(model: PreTrainedModel, *, on: bool) -> None:
    """Whether the layers of `model` keep what enters them alone."""
    with warnings.catch_warnings():  # transformers 5.17 has this name only; newer ones warn that version 6 will not
        warnings.simplefilter("ignore", FutureWarning)
        if on:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        else:
            model.gradient_checkpointing_disable()
