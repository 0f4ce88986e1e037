"""`tunewise serve`: the base and what was made of it behind HTTP, for whatever speaks OpenAI's API."""

from pathlib import Path
from typing import Annotated

import typer

from tunewise.cli.console import Data, Model, progress_lines, results
from tunewise.errors import UserError


def serve(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN_OR_ADAPTER]... [FIELD=VALUE]...",
            help="Runs, adapters, or a folder of runs (the middle seed of each arm), all of one base; and overrides "
            "such as generation.do_sample=true.",
            show_default=False,
        ),
    ] = None,
    model: Model = None,
    data: Data = None,
    host: Annotated[str, typer.Option(help="The address to listen at; 0.0.0.0 lets the whole network in.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 8000,
    free: Annotated[
        bool, typer.Option("--free", help="Ask chats by the tokenizer's template, not by the task's.")
    ] = False,
    api_key: Annotated[
        str,
        typer.Option(help="What clients must send as their key.", envvar="TUNEWISE_API_KEY", show_default="none"),
    ] = "",
    at_once: Annotated[int, typer.Option(min=1, help="Answers in one batch; more wait.")] = 32,
    cache_tokens: Annotated[
        int, typer.Option(min=64, help="Tokens of all answers in a batch, prompts included.")
    ] = 32768,
) -> None:
    """Serve a base and what was made of it as OpenAI's API, until Ctrl-C. Needs the extra serve."""
    from tunewise.cli.recipes import assigned, is_assignment

    targets = [Path(word) for word in words or () if not is_assignment(word)]
    overrides = assigned([word for word in words or () if is_assignment(word)])
    if not targets and model is None:
        raise UserError("nobody to serve", "give runs or adapters, or --model tiny")

    from tunewise.report.named import named
    from tunewise.serve.server import ServerSettings, opened

    folders = {name: each.folder for name, each in named(targets).items()}
    free = free or (not targets and data is None)
    settings = ServerSettings(host, port, api_key.strip(), at_once, cache_tokens)
    with (
        progress_lines().status("loading") as status,
        opened(folders, model=model, data=data, free=free, overrides=overrides, settings=settings) as server,
    ):
        status.stop()
        results().print(f"serving {', '.join(server.names)} at {server.url} (Ctrl-C ends it)", soft_wrap=True)
        server.run()
