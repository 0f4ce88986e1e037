"""How tensors run: batches, the loss, scoring of answers, decoding."""
