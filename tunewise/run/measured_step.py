"""`tunewise plan --measure`: the worst step of a plan, carried out a few times on the base itself and thrown away."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from statistics import median
from tempfile import TemporaryDirectory

from tunewise.data.encode import Encoded
from tunewise.engine.criterion import CrossEntropy, minimising
from tunewise.engine.objectives import objective_for
from tunewise.errors import UserError
from tunewise.files import read_jsonl
from tunewise.methods.attach import Tuned, attach, count
from tunewise.methods.base import Method
from tunewise.models.load import Base, load_base
from tunewise.models.shapes import is_shape
from tunewise.planning.correction import Correction, in_warm_process
from tunewise.planning.rehearsals import Rehearsals
from tunewise.planning.rows import made_up_row
from tunewise.planning.work import Work
from tunewise.run.recipe import Recipe
from tunewise.training.config import TrainConfig
from tunewise.training.lane import FitResult, Training
from tunewise.training.loop import LOG, fit_alone

N_STEPS = 4
"""Of which the first, in which libraries load what they need, is not counted."""
WARM_UP = Work(rows=1, tokens=8, labels=4)


@dataclass(frozen=True)
class MeasuredStep:
    """What a step took."""

    seconds: float
    """The median of those that count."""
    bytes: int | None
    """At the peak: the base, the method, and what training took beside them; None where this system does not tell."""


def correction(recipe: Recipe, known: Rehearsals, work: Work, methods: Mapping[str, Method]) -> Correction:
    """Measure the first of these methods that trains and fits, by its label.

    UserError for a device that is not here, a base without weights, one that reads images, and where nothing fits.
    """
    device, shell, work = known.device, known.shell, replace(work, seen=None)  # every layer runs
    if not device.is_here:
        raise UserError(f"{device.name} is not here to be measured", "leave --device out, or --measure")
    if is_shape(recipe.model) and not Path(recipe.model).exists():
        raise UserError(
            f"{recipe.model} is a shape without weights: there is no step to measure",
            "give a folder or a hub name, or leave --measure out",
        )
    fits = [label for label, each in methods.items() if count(shell.model, each) and known.fits(each, work)]
    if not fits:
        raise UserError(
            f"no step fits on {device.name}: there is nothing to measure",
            "plan without --measure, which tells what would fit",
        )
    label = fits[0]
    method = methods[label]
    base = load_base(recipe.model, recipe.dtype, head=shell.head, quantise=recipe.quantise)
    if base.tokenizer is None:
        raise UserError(f"{recipe.model} reads images, of which no step is made up", "leave --measure out")
    found = measured_step(base, method, recipe.train, work)
    planned = in_warm_process(known.of(method, work).memory)
    seconds = known.row_seconds(method, work)
    assert seconds is not None, device
    return Correction(label, planned, found.bytes, seconds * work.rows, found.seconds, N_STEPS - 1)


def measured_step(base: Base, method: Method, config: TrainConfig, work: Work) -> MeasuredStep:
    """Train `method` for a few steps of `work` on made-up rows; the base is left as it was."""
    tuned = attach(base.model, method, tokenizer=base.tokenizer, warm_start=False)
    try:
        _trained(base, tuned, config, WARM_UP, 1)
        found, seconds = _trained(base, tuned, config, work, N_STEPS)
        own = found.own_bytes
        return MeasuredStep(median(seconds[1:]), None if own is None else own + tuned.held_bytes)
    finally:
        tuned.detach()


def _trained(base: Base, tuned: Tuned, config: TrainConfig, work: Work, n_steps: int) -> tuple[FitResult, list[float]]:
    """What the training was, and the seconds of its steps."""
    rows = made_up_rows(base, work)
    few = config.model_copy(
        update={
            "steps": n_steps,
            "batch_size": work.rows,
            "accumulation": 1,
            "evaluate_every": None,
            "checkpoint_every": 0,
            "learning_rate": 1e-9,  # of made-up rows there is nothing to learn
        }
    )
    criterion = CrossEntropy(config.label_smoothing)
    objective = minimising(objective_for(base, tuned.prefix_ids, packing=config.packing), criterion)
    with TemporaryDirectory() as folder:
        found = fit_alone(Training(tuned, rows, few, 0, Path(folder), objective))
        steps = [step for step in read_jsonl(Path(folder) / LOG) if isinstance(step, dict)]
    return found, [step["seconds"] for step in steps]


def made_up_rows(base: Base, work: Work) -> list[Encoded]:
    """The rows of one batch of `work`, of tokens drawn at random."""
    chance, n_ids = Random(0), base.model.get_input_embeddings().get_parameter("weight").shape[0]

    def ids(n: int) -> tuple[int, ...]:
        return tuple(chance.randrange(n_ids) for _ in range(n))

    of = base.head.kind, base.anatomy.kind
    return [made_up_row(work, *of, ids, str(number)) for number in range(work.rows)]
