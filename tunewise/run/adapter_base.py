"""The base of an adapter, loaded as the adapter says it was trained on; and what is saved, asked about a row."""

from pathlib import Path

import torch
from torch import Tensor

from tunewise.adapter_folders import CARD, base_named, card_of, find_adapter
from tunewise.errors import UserError
from tunewise.methods.store import head_noted, load_adapter, saved_probes
from tunewise.models.families import VISION, WRITERS, kind_of
from tunewise.models.heads import TaskHead, head_named
from tunewise.models.load import Base, load_base, load_config
from tunewise.training.proofs import plain_probe, probe_logits


def base_of_adapter(adapter: str | Path, model: str | None = None) -> Base:
    """The base `model`, or the one that the adapter names; UserError where it names none."""
    folder = find_adapter(adapter)
    card = card_of(folder)
    if not (name := model or base_named(card)):
        raise UserError(f"{adapter} does not say which base it belongs to", "add --model NAME_OR_FOLDER")
    head = head_noted(folder) if (folder / CARD).is_file() else None
    quantise = card.get("base", {}).get("quantise", "")
    return load_base(name, dtype=card.get("dtype", "auto"), head=head, quantise=quantise)


@torch.no_grad()
def logits_of_adapter(folder: Path, base: Base) -> Tensor:
    """What the adapter says of the rows saved with it, or of a plain one: (rows, vocabulary or classes)."""
    probes = saved_probes(folder) or [plain_probe(base)]
    tuned = load_adapter(base.model, folder, tokenizer=base.tokenizer, base_fingerprint=base.fingerprint)
    try:
        return probe_logits(tuned.model.eval(), probes, tuned.prefix_ids)
    finally:
        tuned.detach()


@torch.no_grad()
def logits_of_model(folder: str) -> Tensor:
    """What a model folder says of a plain row, or of an image without colour: (1, vocabulary or classes)."""
    config = load_config(folder)
    kind, head = kind_of(config), head_named((config.architectures or [""])[0], config)
    base = load_base(
        folder, head=TaskHead("classes", ("0", "1")) if head.kind == "lm" and kind not in WRITERS else head
    )
    if kind != VISION:
        return probe_logits(base.model, [plain_probe(base)])
    shape = (1, config.num_channels, config.image_size, config.image_size)
    return probe_logits(base.model, [{"pixel_values": torch.zeros(shape, dtype=base.dtype)}])
