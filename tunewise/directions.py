"""Which metrics are better the lower they are."""

LOWER = ":lower"
"""Behind the name of a metric of one's own of which less is better."""


class _Metrics(frozenset[str]):
    """Ours by their names, and those of one's own that say it."""

    def __contains__(self, metric: object) -> bool:
        return super().__contains__(metric) or (isinstance(metric, str) and metric.endswith(LOWER))


LOWER_IS_BETTER = _Metrics(("loss", "perplexity", "rmse", "ece", "brier"))
"""Metrics of which less is better; of all others more is."""
