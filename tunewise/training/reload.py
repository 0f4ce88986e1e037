"""Adapters are reloaded in a fresh process, which says what `check_probe` finds in each.

One process serves many adapters of one base, since loading the base costs more than all the checks.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tunewise.errors import UserError
from tunewise.methods.store import check_probe, head_noted, load_adapter, saved_probes
from tunewise.models.heads import TaskHead
from tunewise.models.load import Base, load_base
from tunewise.training.fresh import Failed, Fresh, splits_off
from tunewise.training.proofs import Proof, reloaded, untouched

WORTH_A_BASE = 5
"""Adapters that take as long to reload as a small base."""


def prove_in_fresh_process(
    folders: Sequence[str | Path], base_name: str, dtype: torch.dtype, device: str = "cpu", quantise: str = "",
    at_once: int = 1,
) -> list[Proof]:  # fmt: skip
    """For each adapter folder, whether a process that has read nothing else reloads it to the logits that were saved
    with it; of many as many processes `at_once` as that, each with a base of its own."""
    if not folders:
        return []
    paths = [str(Path(folder).absolute()) for folder in folders]
    n_shares = max(1, min(at_once, len(paths) // WORTH_A_BASE)) if splits_off(device) else 1
    told = [base_name, str(dtype).removeprefix("torch."), device, quantise]
    try:
        found = FRESH.ask_each([[*told, *paths[number::n_shares]] for number in range(n_shares)], device)
    except Failed as reason:
        return [{"passed": False, "value": str(reason), "tolerance": None} for _ in folders]
    in_order = (found[number % n_shares][number // n_shares] for number in range(len(paths)))
    return [
        {"passed": False, "value": each["error"], "tolerance": None} if "error" in each else reloaded(each, dtype)
        for each in in_order
    ]


def _check(base_name: str, dtype: str, device: str, quantise: str, folders: Sequence[str]) -> list[dict[str, Any]]:
    bases: dict[TaskHead, Base] = {}
    found: list[dict[str, Any]] = []
    for folder in folders:
        head = head_noted(folder)
        base = bases.setdefault(head, bases.get(head) or load_base(base_name, dtype, device, head, quantise))
        try:
            tuned = load_adapter(base.model, folder, tokenizer=base.tokenizer, base_fingerprint=base.fingerprint)
        except UserError as error:
            found.append({"error": error.message})
            continue
        with tuned.disabled():  # bit for bit the same base below every adapter, or it is asked again
            off = untouched(base.model, saved_probes(folder)).logits
        found.append(check_probe(tuned, folder, off))
        tuned.detach()
    return found


def check(words: list[str]) -> list[dict[str, Any]]:
    """What is found in each folder of BASE DTYPE DEVICE QUANTISE FOLDER..."""
    return _check(words[0], words[1], words[2], words[3], words[4:])


FRESH = Fresh(check)
"""`FRESH.stand_by()` before anything is read saves a command an import of torch."""
