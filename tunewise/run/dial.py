"""The forgetting dial: a tuned model at several λ between its base (0) and itself (1), and the λ to take."""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from tunewise import files
from tunewise.data.encode import Ids
from tunewise.data.task import Task
from tunewise.directions import LOWER_IS_BETTER
from tunewise.engine.backend import chosen
from tunewise.engine.packed_reading import why_not_read
from tunewise.engine.scoring_lanes import log_probabilities_by_lane, losses_by_lane
from tunewise.errors import UserError
from tunewise.evaluation.by_source import Prepared
from tunewise.evaluation.evaluate import Asking, Evaluation, answer, classified, prepare
from tunewise.evaluation.questions import Questions
from tunewise.evaluation.retention import retention_loss
from tunewise.methods.attach import Tuned
from tunewise.methods.dialled import Dialled
from tunewise.methods.lanes import CannotShare, Draws, Lanes, why_not_a_lane
from tunewise.methods.store import load_adapter, read_card, save_adapter, saved_probes
from tunewise.models.families import DECODER
from tunewise.models.load import Base
from tunewise.run.forgetting import TEXTS, suite_task
from tunewise.run.measure import asked_of
from tunewise.run.prepare import load_for
from tunewise.run.recipe import Recipe
from tunewise.run.record import RECIPE

logger = logging.getLogger(__name__)

DIAL = "dial.json"


@dataclass(frozen=True)
class Point:
    """One λ: the task's main metric on dev, and the loss of every other text, by which λ is chosen; the same on test,
    and of the texts between, which the choice has not seen. Losses in nats per token."""

    scale: float
    dev: float
    test: float
    chosen_by: float | None
    retention: float | None


@dataclass(frozen=True)
class Asked:
    """What is measured at every λ: the parts of the task, dev first, and texts as ids."""

    parts: dict[str, Prepared]
    documents: tuple[list[str], list[str]]
    """Those that choose, and those that tell; of a single text both."""
    longest: int | None
    asking: Asking


def measure_dial(base: Base, tuned: Tuned, recipe: Recipe, task: Task) -> dict[str, Any]:
    """The content of dial.json: every point, the knee, and the rule by which it was chosen.

    `tuned` is attached, and is so afterwards, at the λ it had. All λ are lanes of one batch where they can be; where
    not, they are measured one after another and `route` says why. UserError for a task with no dev or test rows.
    """
    start = time.perf_counter()
    config, scale = recipe.dial, tuned.scale
    scales = [number / (config.points - 1) for number in range(config.points)]
    tuned.on()
    asked = _asked(base, tuned, recipe, task)
    reason = _why_one_by_one(base, tuned, task)
    try:
        if not reason:
            try:
                points = _as_lanes(base, tuned, scales, asked)
            except CannotShare as error:
                reason = error.message
        if reason:
            logger.info("the dial is measured one λ after another: %s", reason)
            points = [_alone(base, tuned, each, asked) for each in scales]
    finally:
        tuned.scale = scale
    metric = task.metrics[0]
    lower = metric in LOWER_IS_BETTER
    return {
        "task": task.name,
        "metric": metric,
        "points": [asdict(point) for point in points],
        "knee": knee_of(points, config.keep, lower_is_better=lower).scale,
        "keep": config.keep,
        "rule": f"of the λ that keep {config.keep:.0%} of the best gain on dev, the one that forgets least of every "
        "other text, those between tell how much; without texts, the smallest",
        "route": f"one by one: {reason}" if reason else f"{len(points)} lanes",
        "seconds": round(time.perf_counter() - start, 3),
    }


def knee_of(points: Sequence[Point], keep: float, *, lower_is_better: bool = False) -> Point:
    """Of the points that keep this share of the best gain over λ = 0 on dev, the one that forgets least by `chosen_by`.

    Ties, and points without that loss, go to the smallest λ. Without a gain that is λ = 0, or whatever forgets less.
    """
    sign = -1 if lower_is_better else 1
    gains = [sign * (point.dev - points[0].dev) for point in points]
    least = keep * max(gains)
    kept = [point for point, gain in zip(points, gains, strict=True) if gain >= least - 1e-12]
    return min(kept, key=lambda point: (point.chosen_by if point.chosen_by is not None else 0.0, point.scale))


def _asked(base: Base, tuned: Tuned, recipe: Recipe, task: Task) -> Asked:
    if not task.dev or not task.test:
        raise UserError(f"{task.name} has no dev or no test rows", "the λ is chosen on dev and told on test: give both")
    n_prefix, context = len(tuned.prefix_ids), tuned.anatomy.context_length
    parts = {
        name: prepare(base, task, examples, n_prefix=n_prefix, shots=recipe.in_context.shots, seed=recipe.seed)
        for name, examples in (("dev", task.dev), ("test", task.test))
    }
    asked = [each for each in recipe.retention_suite if not each.of_harness]
    tasks = [(suite_task(each, recipe, base), each.rows) for each in asked]
    texts = next((of_texts.test[:rows] for of_texts, rows in tasks if of_texts.kind == TEXTS), ())
    longest = None if context is None else context - n_prefix
    asking = Asking(recipe.train.packing, recipe.generation.sampling(recipe.seed))
    documents = [example.text for example in texts]
    return Asked(parts, (documents[::2], documents[1::2] or documents), longest, asking)


def _why_one_by_one(base: Base, tuned: Tuned, task: Task) -> str:
    """Why several λ cannot be asked in one batch; "" where they can."""
    if base.head.kind != "lm" or base.anatomy.kind != DECODER or task.kind != "classification":
        return "only answers that a decoder chooses between are asked of several λ at once"
    if tuned.prefix_ids:
        return "its virtual tokens are there at every λ but 0"
    return why_not_a_lane(tuned) or why_not_read(base.model)


def _as_lanes(base: Base, tuned: Tuned, scales: Sequence[float], asked: Asked) -> list[Point]:
    tuned.detach()
    try:
        lanes = [Dialled(tuned, scale) for scale in scales]
        draws = [Draws(0, base.model.device) for _ in lanes]
        with chosen(base.model.device), Lanes(lanes, draws) as together:
            scores: dict[str, list[float]] = {}
            for name, questions in asked.parts.items():
                assert isinstance(questions, Questions)
                found = log_probabilities_by_lane(together, questions.prompts, questions.options)
                scores[name] = [_value(classified(questions, of_lane)) for of_lane in found]
            assert base.tokenizer is not None
            losses = [_losses(together, base.tokenizer, half, asked.longest) for half in asked.documents]
    finally:
        tuned.reattach()
    return [
        Point(scale, *of_lane) for scale, *of_lane in zip(scales, scores["dev"], scores["test"], *losses, strict=True)
    ]


def _losses(
    lanes: Lanes, tokenizer: PreTrainedTokenizerBase, documents: Sequence[str], longest: int | None
) -> list[float] | list[None]:
    """The loss of these texts in each lane, nats per token; None where there is no token to tell it."""
    by_text = Ids(tokenizer, documents)
    ids = [by_text.prompt(text)[:longest] for text in documents]
    n_told = sum(max(0, len(of_text) - 1) for of_text in ids)
    if not n_told:
        return [None] * len(lanes.tuned)
    return [math.fsum(of_lane) / n_told for of_lane in losses_by_lane(lanes, ids)]


def _alone(base: Base, tuned: Tuned, scale: float, asked: Asked) -> Point:
    tuned.scale = scale
    prefix_ids = tuned.prefix_ids
    dev, test = (
        _value(answer(base, questions, prefix_ids=prefix_ids, asking=asked.asking))
        for questions in asked.parts.values()
    )

    def lost(documents: Sequence[str]) -> float | None:
        packing = asked.asking.packing
        told = retention_loss(base, documents, prefix_ids=prefix_ids, longest=asked.longest, packing=packing)
        return told[0] if documents else None

    return Point(scale, dev, test, *map(lost, asked.documents))


def _value(found: Evaluation) -> float:
    return next(iter(found.metrics.values()))


def dial_adapter(
    target: str | Path,
    *,
    points: int = 11,
    keep: float = 0.95,
    model: str | None = None,
    data: str | None = None,
    save: str | Path | None = None,
) -> dict[str, Any]:
    """`tunewise adapter dial`: a finished run, or an adapter folder, at `points` λ; the content of dial.json.

    Written into the run folder. With `save` an adapter goes there that loads at the chosen λ. UserError where there is
    no adapter, and as `measure_dial`.
    """
    place = Path(target)
    found = asked_of(place, model, data, {})
    if found.adapter is None:
        raise UserError(f"{target} trained nothing", "give a run, or the folder of an adapter")
    fields = {**found.recipe.model_dump(mode="json"), "dial": {"points": points, "keep": keep}}
    recipe = Recipe.model_validate(fields)
    if not recipe.dial.points:
        raise UserError("a dial of 0 points shows nothing", "give 2 or more: --points 11")
    base, task = load_for(recipe.data, recipe.model, recipe.dtype, recipe.head, recipe.quantise)
    tuned = load_adapter(base.model, found.adapter, tokenizer=base.tokenizer, base_fingerprint=base.fingerprint)
    tuned.model.eval()
    try:
        measured = measure_dial(base, tuned, recipe, task)
        content = {"adapter": str(found.adapter), **measured}
        if (place / RECIPE).is_file():
            files.write_json(place / DIAL, content)
        if save is not None:
            tuned.scale = measured["knee"]
            _save(tuned, base, found.adapter, Path(save))
    finally:
        tuned.detach()
    return content


def _save(tuned: Tuned, base: Base, source: Path, out: Path) -> None:
    if tuned.scale == 0.0:
        raise UserError("the λ to take is 0: no λ is better than the base on dev", "use the base as it is")
    card = read_card(source) if (source / "tunewise.json").is_file() else {"notes": {}}
    save_adapter(
        tuned, out, tokenizer=base.tokenizer, base_name=base.name, base_fingerprint=base.fingerprint,
        notes={**card["notes"], "dial": {"adapter": str(source), "scale": tuned.scale}}, probe=saved_probes(source),
    )  # fmt: skip
