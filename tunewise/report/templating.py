"""The templates of pages and cards: a missing name is an error, and numbers are written as a reader wants them."""

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from tunewise.report import words

FILTERS = ("average", "cell", "count", "duration", "quoted", "signed", "size", "spaced", "unbroken")
"""Functions of `words` that templates call."""


def template(name: str) -> Template:
    """A template by its file's name; what goes into an html one is escaped."""
    environment = Environment(
        loader=PackageLoader("tunewise.report"),
        autoescape=".html." in name,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {name: vars(words)[name] for name in FILTERS}
    return environment.get_template(name)
