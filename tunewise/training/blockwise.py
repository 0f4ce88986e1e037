"""AdamW with its moments in 8 bits, or in memory that a GPU's driver pages out to the host, through bitsandbytes.

8 bits: Dettmers et al. 2022, arXiv:2110.02861: a moment is cut into blocks of 256, each divided by its largest
magnitude and rounded to the nearest of 256 values. Tensors of fewer than 4096 values keep theirs in float32. Paged:
Dettmers et al. 2023, arXiv:2305.14314, section 3; moments of at least 10⁵ values, given back when the process ends.
Imported only where it is asked for, since bitsandbytes takes seconds.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from bitsandbytes.optim import AdamW
from torch import Tensor

logger = logging.getLogger(__name__)


def adamw(groups: Sequence[dict[str, Any]], name: str, betas: tuple[float, float], eps: float) -> AdamW:
    """The optimiser that `train.optimiser` names; on a CPU, where nothing can be paged, the one that is not paged."""
    is_paged, on_cpu = name.startswith("paged_"), groups[0]["params"][0].device.type == "cpu"
    if is_paged and on_cpu:
        logger.warning("train.optimiser=%s: on a CPU nothing is paged; the numbers are the same", name)
    bits = 8 if name.endswith("_8bit") else 32
    return AdamW(
        groups, lr=0.0, betas=betas, eps=eps, weight_decay=0.0, optim_bits=bits, is_paged=is_paged and not on_cpu
    )


def restore(rule: AdamW, tensor: Tensor, state: Mapping[str, Tensor]) -> None:
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
