"""`tunewise adapter start`: a base quantised around an adapter, for `method.init=stored`."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from tunewise.cli.console import AsJson, print_json, results


def start(
    model: Annotated[str, typer.Argument(help="tiny, a folder, or a hub name, in full precision.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for the new base.", show_default=False)],
    method: Annotated[str, typer.Option(help="The adapter, such as lora:rank=16:roles=[all].")] = "lora",
    form: Annotated[str, typer.Option("--format", help="nf4, fp4 or int8.")] = "nf4",
    by: Annotated[str, typer.Option(help="loftq, or pissa for QPiSSA.")] = "loftq",
    turns: Annotated[int, typer.Option(help="How often the weights are quantised anew.")] = 5,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or auto.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Quantise a base around an adapter, so that both together begin nearer to the full-precision weights."""
    from tunewise.config import in_one_word, parts_of
    from tunewise.run import start_adapter

    fields = in_one_word(method)
    found = start_adapter(model, out, method=fields, format=form, by=by, turns=turns, dtype=dtype)
    if as_json:
        print_json(found)
        return
    console = results()
    console.print(
        f"wrote {out}: {found['weights']} weights in {form}, quantised around {method} by {by}", soft_wrap=True
    )
    behind = ", ".join(f"{100 * each:.2f}" for each in found["turns"])
    console.print(
        f"lost of them: {100 * found['plain']:.2f} % without an adapter, with it {behind} % behind each turn",
        soft_wrap=True,
    )
    words = [f"method.{each}" for each in (*parts_of(method, ":")[1:], "init=stored")]
    command = shlex.join(["tunewise", "train", "--model", str(out), "--method", str(fields["name"]), *words])
    console.print(f"train on it: {command}", soft_wrap=True, highlight=False)
