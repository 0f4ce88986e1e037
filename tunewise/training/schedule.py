"""The learning rate of each step: a linear rise, then the schedule; never zero.

Of n steps, w of them warm-up, the steps are those of `transformers.get_scheduler` behind its first one, which is at a
rate of zero and changes nothing: step s here is its step s + 1 of n + 1, with w + 1 of warm-up. Without warm-up they
are the same steps. The names are transformers' too; `floor` is its `min_lr_rate`, of a linear schedule its `polynomial`
of power 1.
"""

import logging
import math

from tunewise.training.config import TrainConfig

TIMESCALE_WITHOUT_WARMUP = 10_000
"""Of `inverse_sqrt`: what a step is divided by where there is no warm-up to take it from, as in big_vision."""
logger = logging.getLogger(__name__)


def tell_endless_warmup(n_steps: int, config: TrainConfig) -> None:
    """Warn of a run that ends before its learning rate is at its peak."""
    if config.n_warmup(n_steps) >= n_steps:
        logger.warning("%d steps, and all of them warm-up: the learning rate does not reach its peak", n_steps)


def learning_rate_at(step: int, n_steps: int, peak: float, config: TrainConfig) -> float:
    """The learning rate of `step` (from 0) of `n_steps`."""
    n_warmup = config.n_warmup(n_steps)
    if step < n_warmup:
        return peak * (step + 1) / (n_warmup + 1)
    if config.schedule == "constant":
        return peak
    if config.schedule == "inverse_sqrt":
        timescale = n_warmup + 1 if n_warmup else TIMESCALE_WITHOUT_WARMUP
        return peak / math.sqrt(1 + (step - n_warmup) / timescale)
    start = n_warmup
    if config.schedule == "warmup_stable_decay":
        start = max(n_warmup, n_steps - math.ceil(config.decay * n_steps))
    progress = max(0, step - start) / max(1, n_steps - start)
    left = 1 - progress if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return peak * (config.floor + (1 - config.floor) * left)
