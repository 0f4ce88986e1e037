"""What a base was quantised around (`around.py`), in a file beside its weights: `init=stored` begins there."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from tunewise import files
from tunewise.errors import UserError
from tunewise.methods.base import Delta, Method, Start
from tunewise.methods.reparam.around import Lost
from tunewise.methods.reparam.low_rank import LowRank
from tunewise.models.fingerprint import checksums
from tunewise.models.quantise import packed_weights

CARD, TENSORS = "start.json", "start.safetensors"
_SHAPE = ("rank", "alpha", "rslora", "roles", "layers")
"""The fields that decide which A and B there are, and what their product is multiplied by."""


def write_start(
    folder: Path, model: PreTrainedModel, method: Method, deltas: Mapping[str, Delta], lost: Mapping[str, Lost], by: str
) -> None:
    """Write what `deltas` begin with into the folder of the base `model`, for `init=stored`."""
    low_rank = {site: delta for site, delta in deltas.items() if isinstance(delta, LowRank)}
    tensors = {
        f"{site}.{name}": tensor.detach().cpu().contiguous()
        for site, delta in low_rank.items()
        for name, tensor in (("lora_A", delta.lora_A), ("lora_B", delta.lora_B))
    }
    card = {
        "method": method.configuration(),
        "by": by,
        "scaling": {site: delta.scaling for site, delta in low_rank.items()},
        "packed": _packed_sums(model),
        "lost": {path: asdict(each) for path, each in lost.items()},
    }
    with files.writing(folder / TENSORS) as path:
        save_file(tensors, path, metadata={"format": "pt"})
    files.write_json(folder / CARD, card)


@torch.no_grad()
def start_as_stored(start: Start, deltas: Mapping[str, Delta]) -> None:
    """Set A and B of `deltas` to what the base was quantised around.

    Raises UserError for a base with nothing beside it, and for ranks, scalings or sites that are not those.
    """
    source = start.model.config._name_or_path
    card = files.read_json(Path(source) / CARD) if (Path(source) / CARD).is_file() else None
    if not isinstance(card, dict):
        raise UserError(
            f"init=stored begins with what a base was quantised around, and {source or 'this base'} has no {CARD}",
            hint="make such a base: tunewise adapter start MODEL --out FOLDER",
        )
    if card["packed"] != _packed_sums(start.model):
        raise UserError(f"{Path(source) / CARD} is of other weights than those beside it", "make that folder anew")
    stored = load_file(Path(source) / TENSORS)
    asked = {site: (len(delta.lora_A), delta.scaling) for site, delta in deltas.items() if isinstance(delta, LowRank)}
    found = {site: (len(stored[f"{site}.lora_A"]), scaling) for site, scaling in card["scaling"].items()}
    if asked != found:
        words = [f"method.{name}={json.dumps(card['method'][name])}" for name in _SHAPE]
        raise UserError(
            f"init=stored, and {source} was quantised around an adapter of another shape", shlex.join(words)
        )
    for site in found:
        delta = deltas[site]
        assert isinstance(delta, LowRank), site
        delta.start_at(stored[f"{site}.lora_A"].to(delta.lora_A), stored[f"{site}.lora_B"].to(delta.lora_B))


def _packed_sums(model: PreTrainedModel) -> dict[str, int]:
    """Of packed weights alone: a base has them with any head."""
    names = packed_weights(model)
    return {name: value for name, value in checksums(model).items() if name in names}
