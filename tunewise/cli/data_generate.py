"""`tunewise data generate`: a set of instructions from a stronger model."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunewise.cli.console import AsJson, print_json, progress_lines, results
from tunewise.errors import UserError, missing, unknown

if TYPE_CHECKING:
    from tunewise.teacher import Address
    from tunewise.teacher.teacher import Teacher

KEY = "TUNEWISE_TEACHER_KEY"


TeacherOption = Annotated[
    str, typer.Option("--teacher", help="An OpenAI-compatible URL such as http://HOST/v1, or a base on this machine.")
]
Folder = Annotated[Path, typer.Option("--out", "-o", help="The folder to write, or to go on with.")]
Seeds = Annotated[
    Path | None,
    typer.Option(help="Seed tasks: instruction, input, output; or Self-Instruct's form.", show_default=False),
]
Prompts = Annotated[
    Path | None,
    typer.Option(help="Prompts that are there already, to be answered by the teacher.", show_default=False),
]
Rows = Annotated[int | None, typer.Option("--n", "-n", min=1, help="Rows to make.", show_default="500, or all")]
TeacherName = Annotated[
    str, typer.Option(help="What the endpoint calls the model.", show_default="the only one it serves")
]
Key = Annotated[
    str, typer.Option(help=f"The environment variable with the endpoint's key; else {KEY}.", show_default=False)
]
Api = Annotated[str, typer.Option(help="chat, or completions for a model that only writes on.")]
OneStep = Annotated[
    bool, typer.Option("--one-step", help="Ask for whole tasks in one request, as Alpaca's authors did.")
]
MaxRequests = Annotated[
    int | None, typer.Option(min=1, help="Requests sent in all, retries included.", show_default="no cap")
]
MaxTokens = Annotated[int | None, typer.Option(min=1, help="Tokens read and written in all.", show_default="no cap")]
PriceIn = Annotated[float, typer.Option(min=0, help="Price of a million tokens read.")]
PriceOut = Annotated[float, typer.Option(min=0, help="Price of a million tokens written.")]
Concurrency = Annotated[int, typer.Option(min=1, max=256, help="Requests under way, or rows of a batch.")]
Timeout = Annotated[float, typer.Option(min=0.01, help="Seconds of silence until a request is sent again.")]
Retries = Annotated[int, typer.Option(min=0, help="How often a request is sent again.")]
Backoff = Annotated[float, typer.Option(min=0, help="Seconds before the first time; each wait doubles.")]
Seed = Annotated[int, typer.Option(help="Which tasks are shown, and what a base here draws.")]
Temperature = Annotated[float, typer.Option(min=0, help="Of new instructions.")]
Novelty = Annotated[
    float, typer.Option(min=0.01, max=1, help="ROUGE-L with a kept instruction from which on one is not new.")
]
Keywords = Annotated[
    str | None, typer.Option(help="Words that no instruction may hold: a,b.", show_default="image,file,draw,...")
]
ThinkingTokens = Annotated[int, typer.Option(min=0, help="What a reasoning model may write before each answer.")]


def generate(
    teacher: TeacherOption,
    out: Folder,
    seeds: Seeds = None,
    outputs_only: Prompts = None,
    n: Rows = None,
    teacher_name: TeacherName = "",
    key: Key = "",
    api: Api = "chat",
    one_step: OneStep = False,
    max_requests: MaxRequests = None,
    max_tokens: MaxTokens = None,
    price_in: PriceIn = 0.0,
    price_out: PriceOut = 0.0,
    concurrency: Concurrency = 8,
    timeout: Timeout = 120.0,
    retries: Retries = 6,
    backoff: Backoff = 1.0,
    seed: Seed = 0,
    temperature: Temperature = 0.7,
    novelty: Novelty = 0.7,
    keywords: Keywords = None,
    thinking_tokens: ThinkingTokens = 0,
    as_json: AsJson = False,
) -> None:
    """Have a stronger model write instructions with inputs and outputs, or outputs alone."""
    source = _source(seeds, outputs_only)
    if api not in ("chat", "completions"):
        raise unknown("kind of endpoint", api, ("chat", "completions"))

    from tunewise.cli.teacher_progress import TeacherProgress, print_summary
    from tunewise.config import parse
    from tunewise.teacher import Address, Extent, Wanted
    from tunewise.teacher import generate as carry_out
    from tunewise.teacher.account import Prices

    kind = "chat" if api == "chat" else "completions"
    asked: dict[str, object] = {
        "kind": "outputs" if outputs_only else "one step" if one_step else "self-instruct",
        "seed": seed,
        "temperature": temperature,
        "novelty": novelty,
        "thinking_tokens": thinking_tokens,
    }
    if keywords is not None:
        asked["keywords"] = [word.strip() for word in keywords.split(",") if word.strip()]
    address = Address(teacher, teacher_name, kind, concurrency, timeout, retries, backoff)
    extent = Extent(n, max_requests, max_tokens, Prices(price_in, price_out))
    with TeacherProgress(progress_lines(), n) as progress:
        found = carry_out(_teacher(address, key, seed), source, out, parse(Wanted, asked), extent, progress)
    if as_json:
        print_json(found)
    else:
        print_summary(results(), found)


def _source(seeds: Path | None, prompts: Path | None) -> Path:
    """The one file of the two that is given; UserError for both or neither, or one that is not there."""
    source = seeds or prompts
    if source is None or (seeds and prompts):
        raise UserError(
            "give either seed tasks or prompts", "--seeds seed_tasks.jsonl, or --outputs-only prompts.jsonl"
        )
    if not source.is_file():
        raise missing(source)
    return source


def _teacher(address: "Address", key: str, seed: int) -> "Teacher":
    """The endpoint at a URL, or the base of another name."""
    from tunewise.teacher.endpoint import Endpoint, is_url

    if not is_url(address.url):  # torch is not needed but here
        from tunewise.models.load import load_base
        from tunewise.teacher.local import Local

        return Local(load_base(address.url), seed=seed, batch_size=address.concurrency)
    if key and key not in os.environ:
        raise UserError(f"there is no environment variable {key}", f"export {key}=..., which is never written anywhere")
    return Endpoint(address, os.environ.get(key or KEY, ""))
