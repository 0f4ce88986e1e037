"""`tunewise data`: what is to be known, or made, of rows before a run."""

import typer

from tunewise.cli.console import verb
from tunewise.cli.data_check import check
from tunewise.cli.data_show import show

app = typer.Typer(name="data", help="Check rows before training, and look at them.", no_args_is_help=True)

app.command()(verb(check))
app.command()(verb(show))
