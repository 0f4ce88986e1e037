"""A quantised base that is made around an adapter: a checkpoint, with what the adapter begins with in its folder."""

from collections.abc import Mapping
from math import fsum, sqrt
from pathlib import Path
from typing import Any

from tunewise import files
from tunewise.adapter_folders import refuse_loss
from tunewise.errors import UserError, unknown
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.methods.reparam.around import LOFTQ, WAYS, Lost, quantise_around
from tunewise.methods.reparam.lora import LoRA
from tunewise.methods.reparam.stored import write_start
from tunewise.models.load import load_base
from tunewise.models.quantise import NF4, check_format


def start_adapter(
    model: str,
    out: str | Path,
    *,
    method: str | Mapping[str, Any] = "lora",
    format: str = NF4,
    by: str = LOFTQ,
    turns: int = 5,
    dtype: str = "auto",
) -> dict[str, Any]:
    """`tunewise adapter start`: the base `model` in `format`, quantised around a LoRA (or DoRA), written to `out`.

    `by` is loftq or pissa, in so many `turns`. Training on `out` with `init=stored` and the same ranks, alphas, roles
    and layers begins there. Returns the folder, the method, and ‖W − Q − s B A‖ / ‖W‖ over all those weights: `plain`
    without any of it, and behind each turn. Raises UserError for another kind of method, and a base that is quantised
    already.
    """
    if by not in WAYS:
        raise unknown("way to quantise around an adapter", by, WAYS)
    check_format(format)
    refuse_loss(out, [model])
    if turns < 1:
        raise UserError(f"{turns} turns quantise nothing", "--turns 1, or the 5 of the paper")
    chosen = parse_method(method)
    if not isinstance(chosen, LoRA):
        raise UserError(f"{chosen.name} has no low-rank factors to begin with", "lora or dora")
    base = load_base(model, dtype, quantise=format)
    tuned = attach(base.model, chosen.model_copy(update={"init": "kaiming"}))
    lost = quantise_around(base.model, base.anatomy, tuned.deltas, by, turns)
    tuned.detach()
    stored = chosen.model_copy(update={"init": "stored"})
    with files.folder(out) as new:
        base.model.save_pretrained(new)
        base.save_processor(new)
        write_start(new, base.model, stored, tuned.deltas, lost, by)
    plain, *behind = (_whole(lost, turn) for turn in range(turns + 1))
    return {
        "folder": str(out),
        "method": stored.configuration(),
        "format": format,
        "by": by,
        "plain": plain,
        "turns": behind,
        "weights": len(lost),
    }


def _whole(lost: Mapping[str, Lost], turn: int) -> float:
    """The loss of all weights as one, behind so many turns."""
    squares = fsum(((each.plain, *each.turns)[turn] * each.norm) ** 2 for each in lost.values())
    return sqrt(squares / max(1e-30, fsum(each.norm**2 for each in lost.values())))
