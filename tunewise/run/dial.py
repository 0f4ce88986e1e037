"""The forgetting dial: a tuned model at several λ between its base (0) and itself (1), and the λ to take."""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tunewise import files
from tunewise.adapter_folders import refuse_loss
from tunewise.data.task import Task
from tunewise.directions import LOWER_IS_BETTER
from tunewise.errors import UserError
from tunewise.evaluation.asks import Asks, How, alone
from tunewise.evaluation.by_lane import ByLane
from tunewise.evaluation.by_source import Prepared
from tunewise.evaluation.evaluate import Asking, asks_of, prepare
from tunewise.evaluation.own_metrics import called
from tunewise.evaluation.retention import losses_of_texts
from tunewise.methods.alone import why_not_a_lane
from tunewise.methods.attach import Tuned
from tunewise.methods.dialled import Dialled
from tunewise.methods.lanes import Draws, Lanes
from tunewise.methods.store import load_adapter, read_card, save_adapter, saved_probes
from tunewise.models.aside import bytes_of, is_large
from tunewise.models.load import Base
from tunewise.models.quantise import why_rows_mix
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
    """What is measured at every λ: the parts of the task, dev first, and texts."""

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
    reason, points = why_not_at_once(base, tuned, len(scales)), []
    try:
        asked = _asked(base, tuned, recipe, task)
        if not reason:
            points, reason = _as_lanes(base, tuned, scales, asked)
        if not points:
            logger.info("the dial is measured one λ after another: %s", reason)
            points = [_alone(base, tuned, each, asked) for each in scales]
    finally:
        tuned.scale = scale
    metric = called(task.metrics[0])
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
    documents = [example.text for example in texts]
    return Asked(parts, (documents[::2], documents[1::2] or documents), longest, recipe.asking)


def why_not_at_once(base: Base, tuned: Tuned, n_points: int) -> str:
    """Why so many λ are no lanes of one batch, where that is known beforehand; "" where it is not."""
    if is_large(n_points * bytes_of(tuned.selected)):
        return "each λ would have its own copy of the base's tensors that were trained"
    return why_rows_mix(base.quantise) or why_not_a_lane(tuned)


def _as_lanes(base: Base, tuned: Tuned, scales: Sequence[float], asked: Asked) -> tuple[list[Point], str]:
    """The points, and why no two were asked at once, or ""."""
    tuned.detach()
    try:
        lanes = [Dialled(tuned, scale) for scale in scales]
        with Lanes(lanes, [Draws(0, base.model.device) for _ in lanes]) as together:
            how = {i: How(lane.prefix_ids, packing=asked.asking.packing) for i, lane in enumerate(lanes)}
            by_lane = ByLane(base, together, how)
            points = by_lane.answers({i: _asks(base, scale, asked) for i, scale in enumerate(scales)})
            return list(points.values()), by_lane.why_alone
    finally:
        tuned.reattach()


def _asks(base: Base, scale: float, asked: Asked) -> Asks[Point]:
    """What is measured at one λ."""
    scores = []
    for questions in asked.parts.values():
        found = yield from asks_of(base, questions, asked.asking)
        scores.append(next(iter(found.metrics.values())))
    losses: list[float | None] = []
    for half in asked.documents:
        loss, _ = (yield from losses_of_texts(base, half, asked.longest)) if half else (None, [])
        losses.append(loss)
    return Point(scale, *scores, *losses)


def _alone(base: Base, tuned: Tuned, scale: float, asked: Asked) -> Point:
    tuned.scale = scale
    return alone(base, _asks(base, scale, asked), How(tuned.prefix_ids, packing=asked.asking.packing))


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
    no adapter, where `save` is that adapter, and as `measure_dial`.
    """
    place = Path(target)
    found = asked_of(place, model, data, {})
    if found.adapter is None:
        raise UserError(f"{target} trained nothing", "give a run, or the folder of an adapter")
    if save is not None:
        refuse_loss(save, [found.adapter])
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
            _keep(place / DIAL, content)
        if save is not None:
            tuned.scale = measured["knee"]
            _save(tuned, base, found.adapter, Path(save))
    finally:
        tuned.detach()
    return content


def _keep(path: Path, content: dict[str, Any]) -> None:
    """Write it beside the run where its folder takes it: what was measured is told either way."""
    try:
        files.write_json(path, content)
    except UserError as error:
        logger.warning("%s; what was measured is told here alone", error.message)


def _save(tuned: Tuned, base: Base, source: Path, out: Path) -> None:
    if tuned.scale == 0.0:
        raise UserError("the λ to take is 0: no λ is better than the base on dev", "use the base as it is")
    card = read_card(source) if (source / "tunewise.json").is_file() else {"notes": {}}
    save_adapter(
        tuned, out, tokenizer=base.tokenizer, base_name=base.name, base_fingerprint=base.fingerprint,
        notes={**card["notes"], "dial": {"adapter": str(source), "scale": tuned.scale}}, probe=saved_probes(source),
    )  # fmt: skip
