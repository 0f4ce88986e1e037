"""A run for TensorBoard: the lines of its log.jsonl as they come, and at its end the recipe beside the scores."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewise import files
from tunewise.config import dotted
from tunewise.models.quantise import require
from tunewise.training.config import TENSORBOARD, TrainConfig
from tunewise.training.state import LOG

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

OF_A_STEP = ("loss", "learning_rate", "gradient_norm")


def check_report_to(config: TrainConfig) -> None:
    """UserError where what `train.report_to` names is not installed."""
    if TENSORBOARD in config.report_to:
        _require()


class TensorBoard:
    """Event files in a folder of the run: train/loss, train/learning_rate, train/gradient_norm and dev/score."""

    def __init__(self, folder: Path) -> None:
        """Raises UserError where tensorboard is not installed."""
        _require()
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def line(self, line: Mapping[str, Any]) -> None:
        """A line of log.jsonl: a step of training, or a look at dev."""
        if self._writer is None:  # what was written behind the checkpoint that training goes on from is hidden
            self._writer = _writer(self._folder, purge_step=line["step"])
        found = {f"train/{name}": line[name] for name in OF_A_STEP if name in line}
        found |= {f"train/loss/{name}": told["loss"] for name, told in line.get("by_source", {}).items()}
        found |= {"dev/score": line["dev"]} if "dev" in line else {}
        for name, value in found.items():
            self._writer.add_scalar(name, value, line["step"])
        self._writer.flush()  # whatever ends the process, what was told is there


def tell_the_end(folder: Path, recipe: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    """The fields of the recipe, as hyperparameters, beside the scores on dev and test of metrics.json."""
    scores = {f"{part}/{name}": value for part in ("dev", "test") for name, value in (metrics[part] or {}).items()}
    writer = _writer(folder)
    fields = {n: each if isinstance(each, str | int | float) else json.dumps(each) for n, each in dotted(recipe)}
    writer.add_hparams(fields, scores, run_name=".", global_step=metrics["steps"])
    writer.close()


def tell_afterwards(folder: Path, recipe: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    """The same of a run that was told to nobody while it went on: the lines of its log, and its end."""
    watcher = TensorBoard(folder)
    for line in files.read_jsonl(folder / LOG) if (folder / LOG).is_file() else ():
        assert isinstance(line, dict), folder
        watcher.line(line)
    tell_the_end(folder, recipe, metrics)


def is_told(folder: Path) -> bool:
    """Whether TensorBoard has something of the run in this folder."""
    return (folder / TENSORBOARD).is_dir()


def _require() -> None:
    require("train.report_to=tensorboard needs", "tensorboard", hint="pip install 'tunewise[track]'")


def _writer(folder: Path, purge_step: int | None = None) -> "SummaryWriter":
    from torch.utils.tensorboard import SummaryWriter  # an extra

    return SummaryWriter(str(folder / TENSORBOARD), purge_step=purge_step)
