"""`tunewise data ...`: what is known and made of rows before anything is trained."""

import typer

from tunewise.cli import data_build, data_check, data_generate, data_mixture, data_show, data_split, data_templates
from tunewise.cli.console import verb

app = typer.Typer(name="data", help="Look at data before training, and make data sets.", no_args_is_help=True)

for _name, _function in {
    "check": data_check.check,
    "show": data_show.show,
    "split": data_split.split,
    "mixture": data_mixture.mixture,
    "build": data_build.build,
    "templates": data_templates.templates,
    "generate": data_generate.generate,
}.items():
    app.command(_name)(verb(_function))
