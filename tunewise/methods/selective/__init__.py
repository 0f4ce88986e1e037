"""Selective methods: tensors of the base itself become trainable."""
