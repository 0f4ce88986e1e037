"""Adapters made of adapters: weighted sums on one base, how far two of them differ, and merging one into its base."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from tunewise import files
from tunewise.adapter_folders import refuse_loss
from tunewise.errors import UserError
from tunewise.methods.arithmetic import change_of, combine, extract_lora
from tunewise.methods.attach import Tuned, attach
from tunewise.methods.store import CARD, load_adapter, read_card, save_adapter, saved_probes
from tunewise.models.load import Base, original, quiet
from tunewise.models.quantise import dequantise
from tunewise.versions import versions

MERGE = "merge.json"
Route = Literal["dequantised", "original"]


def combine_adapters(
    base: Base,
    adapters: Sequence[str | Path],
    out: str | Path,
    *,
    weights: Sequence[float] | None = None,
    how: Literal["linear", "ties", "dare", "dare_ties"] = "linear",
    density: float = 0.5,
    rank: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Save the weighted sum of adapters as a LoRA of `rank`; one adapter and a lower rank makes it smaller.

    Without a rank a linear sum keeps all it needs to be exact. Returns the folder, the method, and by how much the
    LoRA misses the sum: the largest relative error of a site, in Frobenius norms. Raises UserError for adapters whose
    change is no change of linear sites, where ties or dare are given no rank, and where `out` is one of them.
    """
    refuse_loss(out, adapters)
    changes = [_change(base, Path(folder)) for folder in adapters]
    total = combine(changes, weights, how, density=density, seed=seed)
    if rank is None and how != "linear":
        raise UserError(f"a sum by {how} has full rank", hint="say how much of it to keep, such as --rank 16")
    found = extract_lora(total, rank, base.anatomy)
    tuned = attach(base.model, found.method, warm_start=False)
    tuned.load_state(found.state)
    first = Path(adapters[0])
    notes = read_card(first)["notes"] if (first / CARD).is_file() else {}
    made = {"adapters": [str(folder) for folder in adapters], "weights": weights, "how": how, "density": density}
    save_adapter(
        tuned,
        out,
        tokenizer=base.tokenizer,
        base_name=base.name,
        base_fingerprint=base.fingerprint,
        notes={**notes, "combined": made},
        probe=saved_probes(first),
    )
    tuned.detach()
    return {"folder": str(out), "method": found.method.configuration(), "error": max(found.errors.values())}


def merge_adapter(base: Base, folder: str | Path, route: Route | Literal[""] = "") -> PreTrainedModel:
    """A new model whose own weights act as `base` with the adapter in `folder`; the base is as it was.

    On a quantised base the change goes into its dequantised weights, which it was trained on, or into those of the
    original, which the base is read from again: as `route` says. Raises CannotFold as `Tuned.fold` does.
    """
    tuned = load_adapter(base.model, folder, tokenizer=base.tokenizer)
    try:
        return merged_by(base, tuned, route) if route else tuned.fold()
    finally:
        tuned.detach()


def merged_by(base: Base, tuned: Tuned, route: Route) -> PreTrainedModel:
    """A new model whose own dense weights act as `tuned` does on the quantised `base`; it stays attached as it was.

    Raises UserError for a base that is not quantised and where its original is not to be had, and CannotFold.
    """
    if not base.quantise:
        raise UserError(f"{base.name} is not quantised", hint="leave out --route")
    state, scale = tuned.state(), tuned.scale
    tuned.detach()
    try:
        with quiet():
            dense = original(base.model) if route == "original" else dequantise(copy.deepcopy(base.model))
    finally:
        tuned.reattach()
        tuned.scale = scale
    again = attach(dense.to(base.model.device).eval(), tuned.method, warm_start=False)
    again.settle()
    again.load_state(state)
    again.scale = scale
    return again.fold().eval()


def save_merged(
    merged: PreTrainedModel, base: Base, adapter: str | Path, folder: Path, weighed: Mapping[str, Any] | None = None
) -> None:
    """Write the merged model as a transformers folder that is asked, and stops, as the adapter was trained.

    Its tokenizer has the chat template of the training rows, and its generation settings the tokens that end an answer.
    merge.json says what was merged into what and, of a quantised base, what was `weighed`.
    """
    notes = read_card(adapter)["notes"] if (Path(adapter) / CARD).is_file() else {}
    settings = copy.deepcopy(merged.generation_config) if merged.can_generate() else None
    if settings is not None and notes.get("ends"):
        known = settings.eos_token_id if isinstance(settings.eos_token_id, list) else [settings.eos_token_id]
        ends = dict.fromkeys(end for end in (*known, *notes["ends"]) if end is not None)
        settings.eos_token_id = list(ends) if len(ends) > 1 else next(iter(ends))
        merged.generation_config = settings
    with quiet():
        merged.save_pretrained(folder)
    base.save_processor(folder, notes.get("chat_template") or "")
    told = weighed or {"adapter": str(adapter), "base": base.name, "quantise": base.quantise}
    files.write_json(folder / MERGE, {**told, "versions": versions()})


def compare_adapters(base: Base, one: str | Path, other: str | Path) -> dict[str, dict[str, float]]:
    """For every site that either changes: the norms of both changes, and the cosine between them (0 where one is 0)."""
    first, second = (_change(base, Path(folder)) for folder in (one, other))
    found = {}
    for site in dict.fromkeys((*first, *second)):
        a = first[site] if site in first else torch.zeros_like(second[site])
        b = second[site] if site in second else torch.zeros_like(a)
        scale = float(a.norm() * b.norm())
        cosine = float((a * b).sum()) / scale if scale else 0.0
        found[site] = {"norm": float(a.norm()), "other_norm": float(b.norm()), "cosine": cosine}
    last = () if base.anatomy.head is None else (base.anatomy.head,)
    order = {site.name: index for index, site in enumerate((*base.anatomy.sites, *last))}
    return {site: found[site] for site in sorted(found, key=lambda name: order[name])}


def _change(base: Base, folder: Path) -> dict[str, torch.Tensor]:
    tuned = load_adapter(base.model, folder, tokenizer=base.tokenizer)
    try:
        return {site: tuned.scale * change for site, change in change_of(tuned).items()}
    finally:
        tuned.detach()
