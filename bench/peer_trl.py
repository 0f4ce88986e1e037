"""The other peer: trl's SFTTrainer with packing, as its documentation advises for speed. Needs trl and datasets."""

import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from bench import peer
from tunewise.data.encode import Encoded
from tunewise.engine.batches import IGNORED
from tunewise.models.load import load_tokenizer
from tunewise.training.config import TrainConfig

PACKAGES = ("trl", "datasets")


def trained(
    model: Any, rows: Sequence[Encoded], config: TrainConfig, longest: int, more: Mapping[str, Any], watch: peer.Losses
) -> str:
    """Train over `rows`, packed into sequences of `longest` tokens, about as many tokens a step as `config` has; the
    name of the loss that trl takes by default."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    assert config.steps is not None
    batch_size = max(1, round(sum(len(row.ids) for row in rows) / config.steps / longest))
    masks = [[int(label != IGNORED) for label in row.labels] for row in rows]
    dataset = Dataset.from_dict({"input_ids": [list(row.ids) for row in rows], "completion_mask": masks})
    with tempfile.TemporaryDirectory() as folder:
        told = {**peer.arguments(config, folder), "per_device_train_batch_size": batch_size, **more}
        arguments = SFTConfig(
            **told, packing=True, max_length=longest, completion_only_loss=True, gradient_checkpointing=False
        )
        tokenizer = load_tokenizer("tiny")
        SFTTrainer(model, arguments, train_dataset=dataset, processing_class=tokenizer, callbacks=[watch]).train()
    return str(arguments.loss_type)
