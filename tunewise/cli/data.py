"""`tunewise data ...`: what is done with data before anything is trained."""

import typer

from tunewise.cli import data_generate, data_mixture, data_split
from tunewise.cli.console import verb

app = typer.Typer(name="data", help="Look at data before training, and make data sets.", no_args_is_help=True)


@app.callback()
def _of_data() -> None: ...


app.command("mixture")(verb(data_mixture.mixture))
app.command("split")(verb(data_split.split))
app.command("generate")(verb(data_generate.generate))
