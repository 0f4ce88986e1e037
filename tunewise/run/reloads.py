"""The proof that adapters of runs reload, in a process that knows nothing of the runs."""

import time
from pathlib import Path
from typing import Any

import torch

from tunewise import files
from tunewise.models.load import Base
from tunewise.models.weights import bytes_at_rest
from tunewise.run import record
from tunewise.training.reload import prove_in_fresh_process

RELOADS = "reloads_to_the_same_logits"
SMALL_BYTES, AT_ONCE = 1 << 29, 4
"""Of a base that may be there several times, and how often at most."""


def add_reload_proof(folders: list[Path], base: Base) -> list[dict[str, Any]]:
    """Reload the adapters of run folders of one base in a fresh process, of a small base in several, and write the
    proof into each metrics.json.

    Runs without an adapter, and those that have the proof already, are left as they are. The metrics of each folder.
    """
    found = [record.mapping(folder / record.METRICS) for folder in folders]
    wanted = [
        number
        for number, folder in enumerate(folders)
        if (folder / record.ADAPTER).is_dir() and RELOADS not in found[number]["proofs"]
    ]
    adapters = [folders[number] / record.ADAPTER for number in wanted]
    start = time.perf_counter()
    at_once = min(AT_ONCE, torch.get_num_threads()) if bytes_at_rest(base.model) < SMALL_BYTES else 1
    proofs = prove_in_fresh_process(adapters, base.name, base.dtype, str(base.model.device), base.quantise, at_once)
    share = round((time.perf_counter() - start) / max(1, len(wanted)), 3)
    for number, proof in zip(wanted, proofs, strict=True):
        found[number]["proofs"][RELOADS] = proof
        found[number]["spent"]["reload"] = share
        files.write_json(folders[number] / record.METRICS, found[number])
    return found
