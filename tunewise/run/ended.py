"""The end of a run: its metrics and DONE, its checkpoints gone, who follows it told; and what a later start adds."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunewise import files
from tunewise.run import record
from tunewise.run.recipe import Recipe
from tunewise.training import checkpoint
from tunewise.training.loop import CHECKPOINTS
from tunewise.training.proofs import failed_proofs
from tunewise.training.tensorboard import is_told, tell_afterwards, tell_the_end

logger = logging.getLogger(__name__)


def done(out: Path, recipe: Recipe, metrics: Mapping[str, Any]) -> None:
    """Write metrics.json and, last of all, DONE; the checkpoints are needed no more."""
    if failed := failed_proofs(metrics["proofs"]):
        logger.warning("%s: proofs failed: %s", out, ", ".join(failed))
    files.write_json(out / record.METRICS, metrics)
    if recipe.train.report_to:
        tell_the_end(out, recipe.model_dump(mode="json"), metrics)
    files.write_text(out / record.DONE, "")
    checkpoint.remove(out / CHECKPOINTS)


def there_already(out: Path, recipe: Recipe, metrics: dict[str, Any]) -> dict[str, Any]:
    """The metrics of a run that is done; who is to be told of it only now is told, and what a process that was killed
    behind DONE left is removed."""
    checkpoint.remove(out / CHECKPOINTS)
    if recipe.train.report_to and not is_told(out):
        tell_afterwards(out, recipe.model_dump(mode="json"), metrics)
    return metrics
