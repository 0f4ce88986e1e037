"""Who is talked to: the words after `chat`, `studio` and `serve`, and the options that all of them have."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tunewise.errors import UserError

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RUN_OR_ADAPTER]... [FIELD=VALUE]...",
        help="Runs, adapters, or a folder of runs (the middle seed of each arm), all of one base; and overrides "
        "such as generation.do_sample=true.",
        show_default=False,
    ),
]
Host = Annotated[str, typer.Option(help="The address to listen at; 0.0.0.0 lets the whole network in.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")]
System = Annotated[str, typer.Option(help="A system prompt, where it is a conversation.", show_default="none")]


def targets_and_overrides(words: list[str] | None, model: str | None) -> tuple[list[Path], dict[str, Any]]:
    """Runs and adapters, and fields with their values; UserError where nobody is named."""
    from tunewise.cli.recipes import assigned, is_assignment

    given = words or []
    targets = [Path(word) for word in given if not is_assignment(word)]
    if not targets and model is None:
        raise UserError("nobody to talk to", "give runs or adapters, or --model tiny --free")
    return targets, assigned([word for word in given if is_assignment(word)])
