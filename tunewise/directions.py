"""Which metrics are better the lower they are."""

LOWER_IS_BETTER = ("loss", "perplexity", "rmse", "ece", "brier")
"""Metrics of which less is better; of all others more is."""
