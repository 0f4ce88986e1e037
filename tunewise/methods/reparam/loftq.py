"""LoftQ: A and B start from what quantisation lost, W − Q.  Li et al. 2023, arXiv:2310.08659, eq. 6.

The paper alternates, quantising W − s B A again each time. Here Q is what the base was loaded with, so there is one
turn of it, as in peft's replace_lora_weights_loftq: min ‖W − Q − s B A‖, which the truncated SVD solves.
"""

from collections.abc import Mapping

import torch

from tunewise.errors import UserError
from tunewise.methods.base import Delta, Start
from tunewise.methods.reparam.low_rank import LowRank, principal
from tunewise.models.load import original
from tunewise.models.quantise import format_of, is_quantised
from tunewise.models.weights import frozen_weight


@torch.no_grad()
def start_from_loss(start: Start, deltas: Mapping[str, Delta]) -> None:
    """Set A and B wherever the weight is quantised; the full-precision base is read again for it, and dropped.

    Raises UserError on a base that is not quantised, and where its original cannot be found.
    """
    if not format_of(start.model):
        raise UserError(
            "init=loftq starts from what quantisation lost, and this base is not quantised",
            hint="load it in four bits: quantise=nf4, or load_base(..., quantise='nf4')",
        )
    full = original(start.model)
    for site in start.anatomy.linear:
        delta = deltas.get(site.name)
        if isinstance(delta, LowRank) and is_quantised(start.model.get_submodule(site.module)):
            weight, stored = (frozen_weight(model, site)[0].to(delta.lora_A) for model in (full, start.model))
            delta.start_at(*principal(weight - stored, len(delta.lora_A), delta.scaling))
