"""`tunewise compare --protocol icl-vs-ft`: in-context learning against fine-tuning over model sizes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunewise.cli.console import print_json, progress_lines, results, this_command
from tunewise.cli.unproved import refuse_unproved
from tunewise.config import in_one_word, named, override, parts_of
from tunewise.errors import UserError

PROTOCOL = "icl-vs-ft"
SEEDS = ",".join(map(str, range(10)))


def carry_out(
    models: Mapping[str, dict[str, Any]],
    fields: Mapping[str, Any],
    *,
    shots: int,
    seeds: Sequence[int],
    root: Path,
    as_json: bool,
) -> None:
    """The grid of these models on the recipe's data, printed, with icl-vs-ft.json and icl-vs-ft.html in `root`."""
    from tunewise.cli.progress import RunsProgress
    from tunewise.comparison.icl_vs_ft import icl_vs_ft
    from tunewise.report.arms import read_arms
    from tunewise.report.size_grid import print_grids, write_size_page
    from tunewise.training.reload import FRESH

    FRESH.stand_by()

    own = {name: value for name, value in fields.items() if name not in ("model", "data", "out_of_domain", "seed")}
    with RunsProgress(progress_lines()) as progress:
        found = icl_vs_ft(
            models, fields["data"], out_of_domain=fields.get("out_of_domain"), shots=shots, seeds=seeds, fields=own,
            out=root, progress=progress,
        )  # fmt: skip
    page = write_size_page(found, root / "icl-vs-ft.html", commands=[this_command()])
    if as_json:
        print_json({**found, "page": str(page)})
    else:
        print_grids(results(), found)
        results().print(f"\npage: {page}", soft_wrap=True)
    arms = [(model["label"], arm) for model in found["models"] for arm in read_arms(root / model["label"])]
    refuse_unproved([replace(arm, label=f"{arm.label} on {label}") for label, arm in arms])


def fine_tuned(methods: str | None, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe with the one method that is held against in-context learning: full fine-tuning, unless one is said."""
    words = [word for word in parts_of(methods or "full", ",") if word.strip()]
    if len(words) != 1 or words[0].startswith("frozen"):
        raise UserError(
            f"--methods {methods} is not one way of fine-tuning",
            "name one, such as --methods lora:rank=8, or leave it out",
        )
    return {**recipe, "method": in_one_word(words[0])}


def models_of(text: str, protocol: str | None) -> dict[str, dict[str, Any]]:
    """Name -> recipe fields of its own, of models with commas: tiny,PATH:train.learning_rate=1e-4."""
    if protocol != PROTOCOL:
        told = f"no protocol named {protocol!r}" if protocol else "--models is for a protocol, and none is given"
        raise UserError(told, f"write --protocol {PROTOCOL} --models tiny,FOLDER")
    models: dict[str, dict[str, Any]] = {}
    for word in filter(None, (part.strip() for part in parts_of(text, ","))):
        name, *assignments = parts_of(word, ":")
        name = override({}, [f"name={name}"])["name"] if name[0] in "\"'" else name
        if name in models:
            raise UserError(f"the model {name} is there twice", "leave one out")
        models[name] = override({}, named(word, assignments))
    if not models:
        raise UserError(
            f"no models for --protocol {PROTOCOL}", "name them with commas: --models tiny,FOLDER,facebook/opt-125m"
        )
    return models
