"""The files of a run folder beside the adapter: what was asked, where it ran, what it cost."""

import hashlib
import json
import os
import platform
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tunewise import files
from tunewise.config import dotted, parse, read_yaml
from tunewise.data.benchmarks import benchmark_files, is_benchmark
from tunewise.data.config import DataConfig
from tunewise.data.sources import files_at
from tunewise.errors import UserError
from tunewise.evaluation import own_metrics
from tunewise.identity import identity
from tunewise.models import fingerprint
from tunewise.models.load import Base
from tunewise.models.weights import bytes_at_rest
from tunewise.run.recipe import Recipe
from tunewise.training.loop import CHECKPOINTS, FitResult
from tunewise.versions import versions

RECIPE, ENVIRONMENT, LEDGER = "recipe.yaml", "env.json", "ledger.json"
ADAPTER, PREDICTIONS, METRICS, DONE = "adapter", "predictions.jsonl", "metrics.json", "DONE"
RUNNING = "RUNNING"
MOST_TOLD = 4
"""Fields in which two recipes differ that an error names."""


class Spent:
    """Seconds of a run beside its training, by what they went into."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        """The time inside the block goes into `what`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[what] += time.perf_counter() - start

    def add(self, what: str, seconds: float) -> None:
        """So many went into `what`."""
        self._seconds[what] += seconds

    def told(self) -> dict[str, float]:
        """For metrics.json."""
        return {what: round(seconds, 3) for what, seconds in self._seconds.items()}


def predictions_of(elsewhere: str = "") -> str:
    """The file with the answers to the rows of that out-of-domain test set, or to the test rows."""
    return f"predictions-{elsewhere}.jsonl" if elsewhere else PREDICTIONS


def is_done(out: Path) -> bool:
    """Whether the run in this folder came to its end."""
    return (out / DONE).is_file()


def finished(recipe: Recipe, out: Path, digest: str) -> dict[str, Any] | None:
    """The metrics of a run that is done; None where there is still something to do; UserError for another run."""
    if not is_done(out):
        return None
    there = parse(Recipe, read_yaml(out / RECIPE), where=str(out / RECIPE))
    if _identity(there) != _identity(recipe):
        raise another(there, recipe, out)
    if mapping(out / ENVIRONMENT).get("data_sha256") != digest:
        raise changed_since(recipe, out)
    return mapping(out / METRICS)


def base_is_newer(recipe: Recipe, out: Path) -> bool:
    """Whether a file of the base, where that is a folder, was written or copied after the run in `out` began.

    Only then can a run here have been on another base; who wants to know has to load it.
    """
    folder, begun = Path(recipe.model), out / ENVIRONMENT
    if not (folder.is_dir() and begun.is_file()):
        return False
    began = begun.stat().st_mtime_ns
    return any(max(file.stat().st_mtime_ns, file.stat().st_ctime_ns) > began for file in [folder, *folder.glob("*")])


def refuse_another_base(out: Path, base: Base) -> None:
    """UserError where the run in `out` was on other weights than those of `base`, which is loaded as it asks.

    Quantised weights are not looked at, which machines may round unlike, nor those in another precision, in which a
    new classifier is drawn otherwise.
    """
    told = mapping(out / ENVIRONMENT)
    there = (told.get("base") or {}).get("fingerprint") if told.get("dtype") == dtype_of(base) else None
    if there and not base.quantise and there != base.fingerprint:
        raise UserError(
            f"the base {base.name} has changed since {out} was made", "give another --out, or remove that folder"
        )


def another(there: Recipe, recipe: Recipe, out: Path) -> UserError:
    """The error for a folder that holds the run of another recipe; to be raised by the caller."""
    was, asked = dict(dotted(_identity(there))), dict(dotted(_identity(recipe)))
    unlike = [name for name in was | asked if was.get(name) != asked.get(name)]
    told = [f"{name} was {_inline(was.get(name))} and is {_inline(asked.get(name))}" for name in unlike[:MOST_TOLD]]
    more = [f"{len(unlike) - MOST_TOLD} more"] if len(unlike) > MOST_TOLD else []
    return UserError(
        f"{out} holds a finished run of another recipe: {', '.join(told + more)}",
        "give another --out, or remove that folder",
    )


def _identity(recipe: Recipe) -> dict[str, Any]:
    return identity(recipe.model_dump(mode="json"))


def _inline(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def refuse_changed(recipe: Recipe, out: Path, digest: str, base: Base) -> None:
    """UserError where an unfinished run would go on from a checkpoint on other data, or another base, than it began
    with."""
    if not (any((out / CHECKPOINTS).glob("step-*")) and (out / ENVIRONMENT).is_file()):
        return
    if mapping(out / ENVIRONMENT).get("data_sha256") != digest:
        raise changed_since(recipe, out)
    refuse_another_base(out, base)


def changed_since(recipe: Recipe, out: Path) -> UserError:
    """The error for a folder that was made of other files than are there now; to be raised by the caller."""
    read = [each.path for each in _data_of(recipe)] + [recipe.adapter] * bool(recipe.adapter)
    return UserError(
        f"{' or '.join(dict.fromkeys(read))} has changed since {out} was made",
        "give another --out, or remove that folder",
    )


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Nobody else carries the run in `out` out inside the block; Held where another process does, or just has."""
    with files.held(out / RUNNING):
        if is_done(out):
            raise files.Held(f"{out} was finished by another process this moment", "run the same command again")
        yield


def in_use_by(out: Path) -> str:
    """Who carries the run in `out` out right now: process, host and since when; "" where nobody does."""
    return files.holder(out / RUNNING)


def mapping(path: Path) -> dict[str, Any]:
    """The object a json file holds; UserError where it is missing or damaged."""
    content = files.read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: it holds no object", "remove its folder and run the command again")
    return content


def digest_of(recipe: Recipe) -> str:
    """One digest of the files that a run of this recipe reads, its base aside: data of every kind, and an adapter to go
    on from."""
    return _digest([*(file for each in _data_of(recipe) for file in _files_of(each)), *_adapter_files(recipe)])


def data_digest(data: DataConfig) -> str:
    """One digest of the data's files, by which a changed file is noticed; "" where they have none here."""
    return _digest(_files_of(data))


def _data_of(recipe: Recipe) -> list[DataConfig]:
    return [recipe.data, *recipe.out_of_domain.values(), *(each.data for each in recipe.retention_suite)]


@dataclass(frozen=True)
class _File:
    """A file that is read, and what it is called in its folder: a part or a class, which its content does not say."""

    path: Path
    name: str = ""


def _digest(found: Iterable[_File]) -> str:
    sums = [f"{each.name} {files.sha256_once(each.path)}".lstrip() for each in found if each.path.is_file()]
    return hashlib.sha256(" ".join(sums).encode()).hexdigest() if sums else ""


def _adapter_files(recipe: Recipe) -> list[_File]:
    """Those that are loaded: a model card may be written beside them later."""
    if not recipe.adapter:
        return []
    of_run = Path(recipe.adapter) / ADAPTER
    folder = of_run if of_run.is_dir() else Path(recipe.adapter)
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    return [_File(file) for file in inside if file.suffix in (".json", ".safetensors")]


def _files_of(data: DataConfig) -> list[_File]:
    if data.mixture is not None:
        found = [file for source in data.each.values() for file in _files_of(source)]
    elif is_benchmark(data.path):
        found = [_File(file, file.name) for file in benchmark_files(data.path, data.folder)]
    else:
        place = Path(data.path)
        in_folder = place.is_dir()
        found = [_File(file, str(file.relative_to(place)) if in_folder else "") for file in files_at(data.path)]
    if data.template:
        found = [*found, _File(Path(data.template))]  # one that is named in words is no file
    found = [*found, *map(_File, own_metrics.files_of(data.metrics or ()))]
    replayed = (DataConfig(path=each.path) for each in data.replay)
    return [*found, *(file for each in replayed for file in _files_of(each))]


def dtype_of(base: Base) -> str:
    """As it is written."""
    return str(base.dtype).removeprefix("torch.")


def environment(base: Base, digest: str) -> dict[str, Any]:
    """Versions, machine, and fingerprints of what was loaded."""
    device = base.model.device
    return {
        **versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "dtype": dtype_of(base),
        "base": {
            "name": base.name,
            "fingerprint": base.fingerprint,
            "quantise": base.quantise,
            "bytes": bytes_at_rest(base.model),
        },
        "tokenizer": None if base.tokenizer is None else fingerprint.of_tokenizer(base.tokenizer),
        "data_sha256": digest,
    }


def costs(result: FitResult | None, kept_for_others: int = 0) -> dict[str, Any]:
    """What the training took, less the memory that is kept for other runs; zeros where nothing was trained."""
    if result is None:
        return {
            "steps": 0,
            "train_seconds": 0.0,
            "train_peak_bytes": 0,
            "tokens": 0,
            "tokens_per_second": 0.0,
            "lanes": 1,
        }
    return {
        "steps": result.steps,
        "best_step": result.best_step,
        "stopped_by": result.stopped_by,
        "resumed_from": result.resumed_from,
        "train_seconds": round(result.seconds, 3),
        "train_peak_bytes": result.peak_bytes - kept_for_others,
        "tokens": result.tokens,
        "tokens_per_second": round(result.tokens_per_second, 1),
        "lanes": result.lanes,
        "loss_first": result.losses[0],
        "loss_last": result.losses[-1],
    }


def folder_bytes(folder: Path) -> int:
    """The size of the files directly in a folder."""
    return sum(file.stat().st_size for file in folder.iterdir())
