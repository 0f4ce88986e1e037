"""A quantised checkpoint of a base, with what it lost: weight by weight, and in what it says of given rows."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from math import fsum, sqrt
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from tunewise import files
from tunewise.data.config import DataConfig
from tunewise.data.task import Task
from tunewise.errors import UserError
from tunewise.evaluation import apart
from tunewise.evaluation.apart import Sheet, logits_at_labels
from tunewise.evaluation.own_metrics import called
from tunewise.models.families import DECODER, ENCODER_DECODER, VISION, kind_of
from tunewise.models.heads import TaskHead, head_named, is_told_by
from tunewise.models.load import QUANTISATION, Base, load_base, load_config, load_tokenizer, quiet
from tunewise.models.quantisation_error import WeightError, kept_dense, weight_errors
from tunewise.models.quantise import NF4, check_format, format_of_checkpoint
from tunewise.models.weights import bytes_at_rest
from tunewise.run.prepare import head_for, task_of
from tunewise.run.record import folder_bytes

N_ROWS = 128
ANY_CLASSES = TaskHead("classes", ("0", "1"))
"""What is put on an encoder that no classifier was trained on, to load it; it is not written."""


def quantize(
    model: str,
    format: str = NF4,
    *,
    out: str | Path | None = None,
    data: str | None = None,
    limit: int = N_ROWS,
    dtype: str = "auto",
) -> dict[str, Any]:
    """`tunewise quantize`: the base `model` in `format` (nf4, fp4, int8, or such with -ends8), and what that costs.

    Every packed weight is held against the one it was made from. With `data`, `limit` of its rows (test first) are put
    to both models: their metrics (of text the perplexity), and how far logits and answers lie apart. With `out` the
    checkpoint is written there, which transformers and `--model` read, with the report in quantisation.json. Raises
    UserError for a base that is quantised already, a format that is none, and a folder that is not empty.
    """
    check_format(format)
    config = load_config(model)
    if stored := format_of_checkpoint(config):
        raise UserError(f"{model} is quantised already, in {stored}", "name the full-precision checkpoint")
    if out is not None:
        _refuse_to_replace(Path(out))
    head, task = _head_and_task(model, config, data)
    quantised, dense = load_base(model, dtype, head=head, quantise=format), load_base(model, dtype, head=head)
    weights = list(weight_errors(dense.model, quantised.model, dense.anatomy))
    if not weights:
        raise UserError(f"nothing of {model} was quantised: it has no linear layer but its head", "name another model")
    found = {
        "model": model,
        "format": format,
        "dtype": str(dense.dtype).removeprefix("torch."),
        "relative_error": total_error(weights),
        "bytes_before": bytes_at_rest(dense.model),
        "bytes_after": bytes_at_rest(quantised.model),
        "kept_dense": kept_dense(quantised.model),
        **_measured(dense, quantised, task, limit),
        "weights": [asdict(each) for each in weights],
    }
    if out is None:
        return found
    with files.folder(out) as new:
        _save(quantised, new)
        found["disk_bytes"] = folder_bytes(new)
        files.write_json(new / QUANTISATION, found)
    return {"folder": str(out), **found}


def total_error(weights: Sequence[WeightError]) -> float:
    """‖W − Q‖ / ‖W‖ of all these weights as one."""
    lost = fsum((each.relative * each.norm) ** 2 for each in weights)
    whole = fsum(each.norm**2 for each in weights)
    return sqrt(lost / whole) if whole else 0.0


def _measured(dense: Base, quantised: Base, task: Task | None, limit: int) -> dict[str, Any]:
    """What both make of rows of the task; every figure is None where there is none."""
    if task is None:
        return {"measured_on": None, "metric": None, "metrics": None, "changes": None}
    sheet = _sheet(dense, task, limit)
    answers = [sheet.answers(base) for base in (dense, quantised)]
    logits = (partial(logits_at_labels, base) for base in (dense, quantised))
    changes = {
        **asdict(apart.apart(sheet.rows, apart.n_classes_of(dense), *logits)),
        "answers_changed": apart.changed_answers(*answers),
        "score": apart.score_change(task, *answers),
    }
    before, after = map(apart.metrics_of, answers)
    metrics = {"before": before, "after": after}
    return {"measured_on": sheet.told, "metric": called(task.metrics[0]), "metrics": metrics, "changes": changes}


def _sheet(base: Base, task: Task, limit: int) -> Sheet:
    n_rows = sum(map(len, (task.test, task.dev, task.train)))
    few = apart.a_few(task, (task.test, task.dev, task.train), limit)
    drawn = ", by a classifier that was drawn and not trained" if base.new_parameters else ""
    return apart.sheet_of(base, task, few, f"{len(few)} of the {n_rows:,} rows of {task.name}{drawn}")


def _head_and_task(model: str, config: PreTrainedConfig, data: str | None) -> tuple[TaskHead, Task | None]:
    """The head of the checkpoint, or the one that the rows want where it has none of its own."""
    kind, named = kind_of(config), (config.architectures or [""])[0]
    own = head_named(named, config)
    if data is None:
        has_one = own.kind != "lm" or kind in (DECODER, ENCODER_DECODER)
        return own if has_one else ANY_CLASSES, None
    task = task_of(DataConfig(path=data), None if kind == VISION else load_tokenizer(model))
    wanted = head_for(task, kind, model, "auto" if own.kind == "lm" else "classifier")
    if own.kind != "lm" and not (own.kind == wanted.kind and is_told_by(wanted, config)):
        raise UserError(
            f"{model} tells {', '.join(own.labels) or 'a value'}, and {task.name} asks for "
            f"{', '.join(wanted.labels) or 'a value'}",
            "give it rows with the same labels, in the same order",
        )
    return wanted, task


def _save(quantised: Base, folder: Path) -> None:
    """The checkpoint and its tokenizer; a classifier that was drawn to load the base is left out."""
    model = quantised.model.base_model if quantised.new_parameters else quantised.model
    assert isinstance(model, PreTrainedModel)
    with quiet():
        model.save_pretrained(folder)
    quantised.save_processor(folder)


def _refuse_to_replace(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"cannot write {out}: it is a file", "name a new folder")
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"{out} is not empty", "name a new folder")
