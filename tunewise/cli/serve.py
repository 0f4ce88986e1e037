"""`tunewise serve`: the base and what was made of it behind HTTP, for whatever speaks OpenAI's API."""

from functools import partial
from typing import Annotated

import typer

from tunewise.cli.console import Data, Model, progress_lines, results
from tunewise.cli.who import Host, Port, Words, targets_and_overrides


def serve(
    words: Words = None,
    model: Model = None,
    data: Data = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
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
    most_waiting: Annotated[int, typer.Option(min=1, help="Answers that wait; who comes then gets a 503.")] = 1024,
) -> None:
    """Serve a base and what was made of it as OpenAI's API, until Ctrl-C. Needs the extra serve."""
    targets, overrides = targets_and_overrides(words, model)

    from tunewise.report.named import named
    from tunewise.run.speakers import speakers_of
    from tunewise.serve.server import ServerSettings, opened

    folders = {name: each.folder for name, each in named(targets).items()}
    free = free or (not targets and data is None)
    settings = ServerSettings(host, port, api_key.strip(), at_once, cache_tokens, most_waiting)
    loaded = partial(speakers_of, folders, model=model, data=data, free=free, overrides=overrides)
    with progress_lines().status("loading") as status, opened(loaded, settings) as server:
        status.stop()
        results().print(f"serving {', '.join(server.names)} at {server.url} (Ctrl-C ends it)", soft_wrap=True)
        server.run()
