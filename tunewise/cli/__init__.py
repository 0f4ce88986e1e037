"""The command `tunewise`: one small file a verb, and none of them imports torch before it has to."""

import os
from typing import Annotated

import typer

from tunewise.cli import (
    adapter,
    chat,
    compare,
    data,
    demo,
    dimension,
    doctor,
    eval,
    methods,
    plan,
    quantize,
    remedies,
    report,
    serve,
    studio,
    train,
)
from tunewise.cli.console import verb, version
from tunewise.garbage import collect_rarely

# before torch is imported: threads that wait for work sleep, so that a busy machine costs seconds and not minutes
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

app = typer.Typer(
    name="tunewise",
    help="Which way of adapting this model is worth it here, and what did it cost, and what did it forget?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

VERBS = {
    "train": train.train,
    "eval": eval.evaluate,
    "compare": compare.compare,
    "report": report.report,
    "chat": chat.chat,
    "serve": serve.serve,
    "studio": studio.studio,
    "demo": demo.demo,
    "dimension": dimension.dimension,
    "remedies": remedies.remedies,
    "methods": methods.methods,
    "plan": plan.plan,
    "quantize": quantize.quantize,
    "doctor": doctor.doctor,
}

for _name, _function in VERBS.items():
    app.command(_name)(verb(_function))
app.add_typer(adapter.app, name="adapter")
app.add_typer(data.app, name="data")


@app.callback()
def _root(
    show_version: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None: ...


def main() -> None:
    """The entry point of the command line."""
    collect_rarely()
    app(prog_name="tunewise")
