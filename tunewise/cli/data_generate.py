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


def generate(
    teacher: Annotated[
        str, typer.Option(help="An OpenAI-compatible URL such as http://HOST/v1, or a base on this machine.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write, or to go on with.")],
    seeds: Annotated[
        Path | None, typer.Option(help="Seed tasks: instruction, input, output; or Self-Instruct's form.")
    ] = None,
    outputs_only: Annotated[
        Path | None, typer.Option(help="Prompts that are there already, to be answered by the teacher.")
    ] = None,
    n: Annotated[int | None, typer.Option("--n", "-n", min=1, help="Rows to make.", show_default="500, or all")] = None,
    teacher_name: Annotated[
        str, typer.Option(help="What the endpoint calls the model.", show_default="the one it serves")
    ] = "",
    key: Annotated[str, typer.Option(help="The environment variable with the endpoint's key.", show_default=KEY)] = "",
    api: Annotated[str, typer.Option(help="chat, or completions for a model that only writes on.")] = "chat",
    one_step: Annotated[
        bool, typer.Option("--one-step", help="Ask for whole tasks in one request, as Alpaca's authors did.")
    ] = False,
    max_requests: Annotated[int | None, typer.Option(min=1, help="Requests sent in all, retries included.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens read and written in all.")] = None,
    price_in: Annotated[float, typer.Option(min=0, help="Price of a million tokens read.")] = 0.0,
    price_out: Annotated[float, typer.Option(min=0, help="Price of a million tokens written.")] = 0.0,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Requests under way, or rows of a batch.")] = 8,
    timeout: Annotated[float, typer.Option(min=0.01, help="Seconds of silence until a request is sent again.")] = 120.0,
    retries: Annotated[int, typer.Option(min=0, help="How often a request is sent again.")] = 6,
    backoff: Annotated[float, typer.Option(min=0, help="Seconds before the first time; each wait doubles.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Which tasks are shown, and what a base here draws.")] = 0,
    temperature: Annotated[float, typer.Option(min=0, help="Of new instructions.")] = 0.7,
    novelty: Annotated[
        float, typer.Option(min=0.01, max=1, help="ROUGE-L with a kept instruction from which on one is not new.")
    ] = 0.7,
    keywords: Annotated[
        str | None, typer.Option(help="Words that no instruction may hold: a,b.", show_default="image,file,draw,...")
    ] = None,
    thinking_tokens: Annotated[
        int, typer.Option(min=0, help="What a reasoning model may write before each answer.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Have a stronger model write instructions with inputs and outputs, or outputs alone."""
    source = seeds or outputs_only
    if source is None or (seeds and outputs_only):
        raise UserError(
            "give either seed tasks or prompts", "--seeds seed_tasks.jsonl, or --outputs-only prompts.jsonl"
        )
    if not source.is_file():
        raise missing(source)
    if api not in ("chat", "completions"):
        raise unknown("kind of endpoint", api, ("chat", "completions"))

    from tunewise.cli.teacher_progress import TeacherProgress, print_summary
    from tunewise.config import parse
    from tunewise.teacher import Address, Extent, Wanted
    from tunewise.teacher import generate as carry_out
    from tunewise.teacher.account import Prices

    address = Address(
        teacher, teacher_name, "chat" if api == "chat" else "completions", concurrency, timeout, retries, backoff
    )
    asked: dict[str, object] = {
        "kind": "outputs" if outputs_only else "one step" if one_step else "self-instruct",
        "seed": seed,
        "temperature": temperature,
        "novelty": novelty,
        "thinking_tokens": thinking_tokens,
    }
    if keywords is not None:
        asked["keywords"] = [word.strip() for word in keywords.split(",") if word.strip()]
    wanted = parse(Wanted, asked)
    extent = Extent(n, max_requests, max_tokens, Prices(price_in, price_out))
    with TeacherProgress(progress_lines(), n) as progress:
        found = carry_out(_teacher(address, key, seed), source, out, wanted, extent, progress)
    if as_json:
        print_json(found)
    else:
        print_summary(results(), found)


def _teacher(address: "Address", key: str, seed: int) -> "Teacher":
    from tunewise.teacher.endpoint import Endpoint, is_url

    if not is_url(address.url):  # torch is not needed but here
        from tunewise.models.load import load_base
        from tunewise.teacher.local import Local

        return Local(load_base(address.url), seed=seed, batch_size=address.concurrency)
    if key and key not in os.environ:
        raise UserError(f"there is no environment variable {key}", f"export {key}=..., which is never written anywhere")
    return Endpoint(address, os.environ.get(key or KEY, ""))
