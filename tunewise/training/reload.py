"""A fresh process that reloads adapters of one base, and says what `check_probe` finds in each.

One process serves many adapters, since importing torch and loading the base cost more than all the checks.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tunewise.errors import UserError
from tunewise.methods.store import check_probe, head_noted, load_adapter
from tunewise.models.heads import TaskHead
from tunewise.models.load import Base, load_base
from tunewise.training.proofs import Proof, reloaded

FRESH = (
    "from tunewise.garbage import collect_rarely; collect_rarely(); from tunewise.training.reload import main; main()"
)


def prove_in_fresh_process(
    folders: Sequence[str | Path], base_name: str, dtype: torch.dtype, device: str = "cpu", quantise: str = ""
) -> list[Proof]:
    """For each adapter folder, whether a new Python process reloads it to the logits that were saved with it."""
    if not folders:
        return []
    words = [
        base_name,
        str(dtype).removeprefix("torch."),
        device,
        quantise,
        *(str(Path(folder).absolute()) for folder in folders),
    ]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    environment["PYTHONPATH"] = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", FRESH, *words],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return [{"passed": False, "value": reason, "tolerance": None} for _ in folders]
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return [
        {"passed": False, "value": each["error"], "tolerance": None} if "error" in each else reloaded(each, dtype)
        for each in found
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
        tuned.model.eval()
        found.append(check_probe(tuned, folder))
        tuned.detach()
    return found


def main() -> None:
    """Print a json list: what was found in each folder of BASE DTYPE DEVICE QUANTISE FOLDER..."""
    sys.stdout.write(json.dumps(_check(*sys.argv[1:5], folders=sys.argv[5:])) + "\n")
