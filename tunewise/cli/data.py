"""`tunewise data ...`: what is done with data before anything is trained."""

import typer

from tunewise.cli import data_build, data_templates
from tunewise.cli.console import verb

app = typer.Typer(name="data", help="Build, list and look at data before anything is trained.", no_args_is_help=True)

app.command("build")(verb(data_build.build))
app.command("templates")(verb(data_templates.templates))
