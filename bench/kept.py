"""Results as they are kept: bench/results/NAME.json, with the machine and the versions that they hold for."""

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from tunewise.engine.backend import backend

RESULTS = Path(__file__).parent / "results"


def keep(name: str, found: Sequence[dict[str, Any]]) -> None:
    """Write what was found, and where."""
    RESULTS.mkdir(exist_ok=True)
    content = {"environment": environment(), "results": list(found)}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


def read(name: str) -> dict[str, Any]:
    """What was kept under that name; {"results": []} where nothing was."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text("utf-8")) if path.is_file() else {"environment": {}, "results": []}


def keep_again(name: str, work: Mapping[str, Any], new: dict[str, Any]) -> None:
    """Write what was found for one work in place of what was kept for it before; the other works stay."""
    others = [old for old in read(name)["results"] if any(old.get(key) != value for key, value in work.items())]
    keep(name, [*others, new])


def environment() -> dict[str, Any]:
    """Versions, threads, and how fast this machine multiplies (GFLOP/s) and copies (GB/s)."""
    measured = backend()
    return {
        **{name: version_of(name) for name in ("torch", "transformers", "peft")},
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "processor": _processor(),
        "gflops": measured.gflops,
        "gigabytes_per_second": measured.gigabytes_per_second,
    }


def version_of(name: str) -> str:
    """Of an installed package, or that it is not."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    """The name of the processor, and which wide instructions it has."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.is_file() else []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    wide = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in fields.get("flags", "").split()]
    return " ".join([fields.get("model name") or platform.machine(), *wide])
