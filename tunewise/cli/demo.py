"""`tunewise demo`: eight ways to adapt the embedded base to its sentiment task, three seeds each."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunewise.cli.console import AsJson, Out, print_json, results

if TYPE_CHECKING:
    from tunewise.data.task import Task
    from tunewise.models.load import Base
    from tunewise.report.samples import Sample

TASK = "tiny:sentiment"
TRAIN = {"epochs": 3.0, "batch_size": 16}
# label: method, learning rate. `tiny` is a thousand times smaller than the models of the papers and wants higher rates
# than the methods' own; these were chosen on dev, once, and are the same for every seed.
ARMS: dict[str, tuple[dict[str, Any], float | None]] = {
    "zero-shot": ({"name": "frozen"}, None),
    "8-shot": ({"name": "frozen", "shots": 8}, None),
    "LoRA": ({"name": "lora", "rank": 8, "roles": ["all"]}, 2e-3),
    "BitFit": ({"name": "bitfit", "add": True}, 3e-3),
    "bottleneck": ({"name": "bottleneck", "bottleneck": 32}, 2e-3),
    "prompt tuning": ({"name": "prompt_tuning", "virtual_tokens": 16}, 3e-2),
    "top 2 layers": ({"name": "top_layers", "layers": 2}, 5e-4),
    "full": ({"name": "full"}, 3e-4),
}
SHOWN = ("LoRA", "full")  # whose answers stand beside the base's
N_SAMPLES, N_NEW_TOKENS = 4, 16
STORY = "Once upon a time in the harbour"  # what the base was made for: text that goes on


def demo(
    out: Out = None,
    model: Annotated[str, typer.Option("--model", "-m", help="tiny, a folder, or a hub name.")] = "tiny",
    seeds: Annotated[str, typer.Option(help="Seeds, with commas.")] = "0,1,2",
    examples: Annotated[int | None, typer.Option(help="Training examples.", show_default="all")] = None,
    as_json: AsJson = False,
) -> None:
    """Eight ways to adapt the embedded base to its sentiment task: a table, answers side by side, a report page."""
