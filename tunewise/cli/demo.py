"""`tunewise demo`."""

from tunewise.cli.console import AsJson, Out


def demo(out: Out = None, as_json: AsJson = False) -> None:
    """Eight ways to adapt the embedded base to its sentiment task: a table, answers side by side, a report page."""
    raise NotImplementedError
