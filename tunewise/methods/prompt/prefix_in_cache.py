"""A prefix as a decoder's cache holds it, where keys are rotated, and the same as it is learned, before that."""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from tunewise.errors import UserError
from tunewise.methods.attach import attach
from tunewise.methods.base import Method
from tunewise.models.anatomy import Anatomy

TURNED_BACK = 0.05
"""How far a cache may lie from the one that was wanted, over its largest number: what bfloat16 rounds."""


def cached(method: Method, model: PreTrainedModel, anatomy: Anatomy) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of the virtual tokens, (1, key-value heads, tokens, d_head), layer by layer; `model` carries
    `method`."""
    ids = torch.tensor([method.prefix_ids(anatomy)], device=model.device)
    whole = DynamicCache()  # of no config: a window narrower than the prefix would drop what is behind it
    model(ids, use_cache=True, past_key_values=whole)  # a tagger hands no cache on, and fills this one
    layers: Any = whole.layers
    return [(layer.keys, layer.values) for layer in layers]


@torch.no_grad()
def before_rotation(method: Method, rows: Tensor, model: PreTrainedModel, anatomy: Anatomy) -> dict[str, Tensor]:
    """The state of `method` with which the cache holds `rows` (tokens, layers · 2 · key-value heads · d_head).

    Keys are turned back by the rotation that the base's own cache shows for each unit vector. UserError where the cache
    would then hold others, as in a base that does more to its keys than rotate them.
    """
    n_heads = anatomy.n_key_value_heads
    wanted = rows.view(len(rows), anatomy.n_layers, 2, n_heads, -1).to(model.device, torch.float64)
    tuned, rotated = attach(model, method, warm_start=False), []
    try:
        for unit in torch.eye(wanted.shape[-1]):
            for site in anatomy.keys:
                tuned.trainable[f"delta.{site.name}.values"].copy_(unit.repeat(len(rows), n_heads))
            rotated.append(torch.stack([keys[0, 0] for keys, _ in cached(method, model, anatomy)]))
        rotation = torch.stack(rotated, dim=2).to(torch.float64)  # (layers, tokens, d_head before, d_head behind)
        keys = torch.linalg.solve(rotation, wanted[:, :, 0].transpose(0, 1), left=False)
        of_sites = dict(zip(anatomy.keys, keys, strict=True))
        of_sites |= dict(zip(anatomy.find(["v"]), wanted[:, :, 1].transpose(0, 1), strict=True))
        found = {f"delta.{site.name}.values": values.flatten(1).to(rows) for site, values in of_sites.items()}
        for name, values in found.items():
            tuned.trainable[name].copy_(values)
        held = torch.stack([torch.cat(layer) for layer in cached(method, model, anatomy)])
    finally:
        tuned.detach()
    off = float((held.permute(3, 0, 1, 2, 4) - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))
    if not off < TURNED_BACK:
        raise UserError(
            f"keys of this {anatomy.model_type} base are not rotated alone, and peft's cannot be turned back",
            hint="train the prefix here: method=prefix_tuning",
        )
    return found
