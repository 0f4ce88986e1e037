"""What the planner says of a run, kept beside what the run measures, so that every run grades the planner."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from tunewise.data.encode import Encoded
from tunewise.engine.sources import Sources
from tunewise.methods import parse_method
from tunewise.methods.attach import Tuned
from tunewise.methods.base import Method
from tunewise.models.load import Base
from tunewise.planning.correction import in_warm_process
from tunewise.planning.devices import device_named
from tunewise.planning.fits import at_length
from tunewise.planning.left_out import LEAST_SECONDS, MEMORY, RESUMED, SHORT, TIME
from tunewise.planning.parameters import count_on
from tunewise.planning.rehearsal import rehearse
from tunewise.planning.seconds import step_seconds
from tunewise.planning.shell import Shell, shell_of
from tunewise.run.recipe import Recipe
from tunewise.run.trained_on import TrainedOn, from_trunk, trained_on
from tunewise.training.lane import FitResult

logger = logging.getLogger(__name__)

_SIZES: dict[tuple[object, ...], dict[str, int]] = {}


def planned(
    base: Base,
    tuned: Tuned,
    recipe: Recipe,
    rows: Sequence[Encoded],
    sources: Sources,
    result: FitResult | None,
    trunk: Mapping[str, Any],
) -> dict[str, Any]:
    """For metrics.json: what was `planned`, each figure under the name that its measurement has, and how many bytes
    training took at its peak, beside nothing else, which nothing else measures.

    Of memory and time nothing is planned where the run was none that a plan is made for, and of one that went on from a
    checkpoint time alone: `left_out` tells the reason.
    """
    if result is None:
        return {"planned": None, MEMORY: None}
    trained = trained_on(base, recipe, rows, sources)
    if trunk["cached"]:
        trained = from_trunk(trained, rows)
    sizes = _sizes(base, recipe.method)
    reason = _why_not(result, trunk, len(rows)) or (SHORT if result.seconds < LEAST_SECONDS else "")
    told: dict[str, Any] = {}
    if reason in ("", RESUMED):
        try:
            told = foretold(_shell(base), recipe.method, trained)
        except Exception as error:  # whatever it is: a run that is done is not lost to what was thought of it before
            reason = f"the planner fails on it: {type(error).__name__}: {error}"
            logger.warning("%s", reason)
    if reason == RESUMED:
        told.pop(MEMORY, None)
    memory = None if result.own_bytes is None or result.lanes > 1 else result.own_bytes + tuned.held_bytes
    return {
        "planned": {**sizes, **told, "left_out": reason, "trained_on": trained.as_data()},
        MEMORY: memory,
    }


def _sizes(base: Base, method: Method) -> dict[str, int]:
    """What is counted without the weights, once for all seeds."""
    key = base.name, base.fingerprint, base.dtype, base.head, str(method.configuration())
    if key not in _SIZES:
        counted = count_on(_shell(base), method)
        _SIZES[key] = {"n_trainable": counted.n_trainable, "adapter_bytes": counted.adapter_bytes}
    return _SIZES[key]


def _shell(base: Base) -> Shell:
    shell = shell_of(base.name, base.head)
    shell.model.to(base.dtype)  # in which trained tensors of the base are saved
    return shell


def foretold(shell: Shell, method: Method, trained: TrainedOn) -> dict[str, Any]:
    """Memory at the peak of a step, without what a process brings in with its first one, and seconds of all steps, on
    the device that runs take here."""
    device, longest = device_named(), trained.longest
    mean = at_length(longest, max(1, round(trained.mean_tokens)))
    at_most = rehearse(shell, method, longest, device.type)
    on_average = at_most if mean == longest else rehearse(shell, method, mean, device.type)
    seconds, once = step_seconds(on_average, device), step_seconds(on_average.trunk_pass, device)
    taken = None
    if seconds is not None and once is not None:
        n_once = 0 if longest.seen is None else longest.seen.rows  # through the frozen layers
        taken = round((seconds * trained.n_rows + once * n_once) / mean.rows, 3)
    return {MEMORY: in_warm_process(at_most.memory).total, TIME: taken}


def planned_now(model: str, method: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """The same of a run that is done, by the planner of today, from what it was `told` to have trained on. UserError
    where its base is not to be found."""
    trained = TrainedOn.read(told)
    return foretold(shell_of(model, trained.head), parse_method(method), trained)


def _why_not(result: FitResult, trunk: Mapping[str, Any], n_rows: int) -> str:
    """Why memory and time are not those that a plan is about; "" where they are."""
    if result.lanes > 1:
        return f"{result.lanes} runs shared its batches, and their memory"
    if result.resumed_from:
        return RESUMED
    if trunk["cached"] and trunk["n_computed"] < n_rows / 2:
        return f"what left its {trunk['layers']} frozen layers had been kept by an earlier run"
    return ""
