"""The data doctor before a run: the task of a recipe, as its base would read it, without the base's weights."""

import json
import logging
import shlex
from collections.abc import Sequence
from contextlib import suppress

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from tunewise.config import override
from tunewise.data.config import DataConfig
from tunewise.data.doctor import Examination, Reading, Rows, at_most, examine
from tunewise.data.doctor.reading import Way
from tunewise.data.load import load_task
from tunewise.engine.objectives import encoder_for
from tunewise.errors import UserError
from tunewise.models.anatomy import context_length
from tunewise.models.families import ENCODER_DECODER, VISION, kind_of
from tunewise.models.heads import HeadChoice, TaskHead
from tunewise.models.load import UNLIMITED, load_config, load_tokenizer
from tunewise.run.class_weights import check_loss
from tunewise.run.prepare import as_read, head_for, refuse_untrained, task_of
from tunewise.run.recipe import Recipe
from tunewise.training.config import TrainConfig

logger = logging.getLogger(__name__)

MAX_LENGTH = TrainConfig().max_length
LOOKED_AT = 200_000
"""Rows of a part that are looked at before a run; more than that only `tunewise data check` does."""


def examine_data(
    data: DataConfig, model: str = "tiny", head: HeadChoice = "auto", max_length: int = MAX_LENGTH
) -> Examination:
    """What the doctor finds of this data, for a base of this name; UserError where it cannot be read as a task."""
    return examine(rows_of(data, model, head, max_length))


def rows_of(data: DataConfig, model: str, head: HeadChoice = "auto", max_length: int = MAX_LENGTH) -> Rows:
    """The rows of a task, and how a base of this name reads them; images are not read."""
    config = load_config(model)
    kind, tokenizer = kind_of(config), _tokenizer(model, config)
    task = load_task(data, tokenizer)
    chosen = head_for(task, kind, model, head)
    refuse_untrained(data, kind, chosen)
    task = as_read(task, data, chosen)
    if tokenizer is None:
        return Rows(task)
    if chosen.kind == "tags":
        tokenizer = load_tokenizer(model, chosen)
    told = [n for n in (context_length(config), _limit(chosen, tokenizer.model_max_length)) if n is not None]
    context = min(told, default=None)
    encode = encoder_for(task, tokenizer, kind, chosen)
    longest = min(max_length, context or max_length)
    reading = Reading(model, tokenizer, _way(kind, chosen), longest, context)
    return Rows(task, reading.of(task, encode))


def refuse_unfit(recipes: Sequence[Recipe]) -> None:
    """Examine the data of these recipes, each once; UserError where it has errors, and the rest is told by logging.

    Rows are not tokenised for it: what only tokens tell, a run proves itself by the same functions before its first
    step.
    """
    distinct: dict[str, tuple[str, DataConfig, Recipe]] = {}
    for recipe in recipes:
        for name, data in recipe.data.each.items():
            distinct.setdefault(data.model_dump_json(), (name, data, recipe))
    tokenizers = {model: _tokenizer(model, load_config(model)) for model in {recipe.model for recipe in recipes}}
    for recipe in (each for each in recipes if each.train.label_smoothing or each.train.class_weights):
        check_loss(recipe, task_of(recipe.data, tokenizers[recipe.model]))
    for name, data, recipe in distinct.values():
        task = task_of(recipe.data, tokenizers[recipe.model]).each[name]  # as the run will have it: read once
        found = examine(Rows(at_most(task, LOOKED_AT)))
        command = check_command(data, recipe.model)
        if not found.is_fit:
            errors = found.of("error")
            told = "; ".join(error.message for error in errors) or found.account.sum_told()
            raise UserError(
                f"{data.path} is not fit to be trained on: {told}",
                f"{errors[0].remedy if errors else 'report this'}; all of it: {command}; "
                "--ignore-findings trains all the same",
            )
        if warnings := found.of("warning"):
            first = "; ".join(warning.message for warning in warnings[:2])
            more = f", and {len(warnings) - 2} more" if len(warnings) > 2 else ""
            logger.warning("%s: %s%s. All of it: %s", data.path, first, more, command)


def check_command(data: DataConfig, model: str) -> str:
    """What to type to see everything that the doctor finds of this data."""
    said = data.model_dump(mode="json", exclude_defaults=True, exclude={"path", "replay", "weight"})
    words = [f"data.{name}={_typed(value)}" for name, value in said.items()]
    return shlex.join(["tunewise", "data", "check", data.path, "--model", model, *words])


def _typed(value: object) -> str:
    """A value as it stands behind = in an override: a text that YAML reads as something else, in quotes."""
    if isinstance(value, str):
        with suppress(UserError):
            if override({}, [f"value={value}"])["value"] == value:
                return value
    return json.dumps(value, ensure_ascii=False)


def _tokenizer(model: str, config: PreTrainedConfig) -> PreTrainedTokenizerBase | None:
    """The one of a base, which its chat template belongs to; None of a base that reads images."""
    return None if kind_of(config) == VISION else load_tokenizer(model)


def _way(kind: str, head: TaskHead) -> Way:
    if head.kind != "lm":
        return "classified"
    return "read and written" if kind == ENCODER_DECODER else "one sequence"


def _limit(head: TaskHead, model_max_length: int) -> int | None:
    """What a tokenizer's own limit is to a classifier; one that writes goes by the context alone."""
    return model_max_length if head.kind != "lm" and model_max_length < UNLIMITED else None
