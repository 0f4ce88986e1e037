"""`tunewise data ...`: what is done with data before anything is trained."""

import typer

from tunewise.cli import data_generate
from tunewise.cli.console import verb

app = typer.Typer(name="data", help="Make data sets, and look into them.", no_args_is_help=True)

app.command("generate")(verb(data_generate.generate))
