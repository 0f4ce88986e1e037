"""AdamW and Lion through bitsandbytes: moments in 8 bits, or in memory that a GPU's driver pages out to the host.

Lion: Chen et al. 2023, arXiv:2302.06675, algorithm 2:
  p = p - lr (sign(b1 m + (1 - b1) g) + decay p);  m = b2 m + (1 - b2) g
8 bits: Dettmers et al. 2022, arXiv:2110.02861: a moment is cut into blocks of 256, each divided by its largest
magnitude and rounded to the nearest of 256 values. Tensors of fewer than 4096 values keep theirs in float32. Paged:
Dettmers et al. 2023, arXiv:2305.14314, section 3; moments of at least 10⁵ values, given back when the process ends.
Imported only where it is asked for, since bitsandbytes takes seconds.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from bitsandbytes.optim import AdamW, Lion
from torch import Tensor

from tunewise.training.config import TrainConfig

logger = logging.getLogger(__name__)


def rule_of(groups: Sequence[dict[str, Any]], config: TrainConfig) -> AdamW | Lion:
    """The rule that `train.optimiser` names; on a CPU, where nothing can be paged, the one that is not paged."""
    name = config.optimiser
    is_paged, on_cpu = name.startswith("paged_"), groups[0]["params"][0].device.type == "cpu"
    if is_paged and on_cpu:
        logger.warning("train.optimiser=%s: on a CPU nothing is paged; the numbers are the same", name)
    bits, is_paged = 8 if name.endswith("_8bit") else 32, is_paged and not on_cpu
    if config.rule == "lion":
        return Lion(groups, lr=0.0, betas=config.betas, optim_bits=bits, is_paged=is_paged)
    return AdamW(
        groups, lr=0.0, betas=config.betas, eps=config.epsilon, weight_decay=0.0, optim_bits=bits, is_paged=is_paged
    )


def restore(rule: AdamW | Lion, tensor: Tensor, state: Mapping[str, Tensor]) -> None:
    """Give `tensor` the moments of a checkpoint, in bitsandbytes' buffers: paged ones are no plain tensors."""
    group, at = next(
        (group, (number, place))
        for number, group in enumerate(rule.param_groups)
        for place, each in enumerate(group["params"])
        if each is tensor
    )
    rule.state.pop(tensor, None)
    rule.init_state(group, tensor, *at)
    own = rule.state[tensor]
    for key, value in state.items():
        if key == "step":
            own[key] = int(value)
        else:
            own[key].copy_(value)
