"""What the decoder of an encoder-decoder is given while it learns its labels: them, one place later."""

from torch import Tensor
from transformers import PreTrainedModel

from tunewise.engine.batches import IGNORED

SHIFT = "prepare_decoder_input_ids_from_labels"


def decoder_inputs(model: PreTrainedModel, labels: Tensor) -> Tensor:
    """Token ids (B, U) for labels (B, U): as the model itself shifts them, and else behind its start token."""
    if any(SHIFT in vars(kind) for kind in type(model).__mro__):
        return model.prepare_decoder_input_ids_from_labels(labels=labels)
    config = model.config
    entered = labels.new_full(labels.shape, config.decoder_start_token_id)
    entered[:, 1:] = labels[:, :-1]
    return entered.masked_fill(entered == IGNORED, config.pad_token_id)
