"""`tunewise data ...`: what is done with data before anything is trained."""

import typer

from tunewise.cli import data_split
from tunewise.cli.console import verb

app = typer.Typer(
    name="data", help="Look at data, and make data sets, before anything is trained.", no_args_is_help=True
)

app.command("split")(verb(data_split.split))
