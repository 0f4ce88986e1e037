"""`tunewise studio`: a local page on which the base and what was made of it are asked the same, side by side."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunewise.cli.console import Data, Model, progress_lines, results
from tunewise.cli.who import Host, Port, System, Words, targets_and_overrides
from tunewise.errors import UserError

if TYPE_CHECKING:
    from tunewise.report.named import Named
    from tunewise.run.showcase import Showcase
    from tunewise.studio.showing import Column, Heading

INSTALL = "pip install 'tunewise[ui]'"


def studio(
    words: Words = None,
    model: Model = None,
    data: Data = None,
    host: Host = "127.0.0.1",
    port: Port = 7860,
    free: Annotated[
        bool, typer.Option("--free", help="Only say what is typed as it is, not by the task's template.")
    ] = False,
    system: System = "",
) -> None:
    """Talk to a base and to what was made of it on a page in the browser, until Ctrl-C. Needs the extra ui."""
    targets, overrides = targets_and_overrides(words, model)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # gradio reads it when it is imported
    try:
        from tunewise.studio.page import Page
        from tunewise.studio.serving import app_of, serve
    except ImportError as error:
        raise UserError(f"the studio needs gradio, which cannot be imported: {error}", INSTALL) from None
    from tunewise.listening import listening, url_of
    from tunewise.report.named import named
    from tunewise.run.showcase import showcase
    from tunewise.studio.sitting import Sitting

    found = named(targets)
    free = free or (not targets and data is None)
    with listening(host, port) as at, progress_lines().status("loading") as status:
        folders = {name: each.folder for name, each in found.items()}
        with showcase(folders, model=model, data=data, free=free, system=system, overrides=overrides) as shown:
            heading, columns = above(targets, found, shown, free=free)
            sitting = Sitting(shown, is_free=free)
            page = Page(sitting, columns, heading)
            status.stop()
            results().print(f"studio: {url_of(at)} (Ctrl-C ends it)", soft_wrap=True)
            serve(app_of(page, heading, host), at, sitting)


def above(
    targets: list[Path], found: "Mapping[str, Named]", shown: "Showcase", *, free: bool
) -> "tuple[Heading, list[Column]]":
    """What stands above all, and who answers; the verdict where they are the arms of one comparison."""
    from tunewise.report import words
    from tunewise.report.decision import decide
    from tunewise.report.in_short import in_short
    from tunewise.report.named import holds_runs
    from tunewise.report.protocol import how_compared
    from tunewise.run.speakers import BASE
    from tunewise.studio.showing import Column, Heading

    decision, report = None, targets[0] / "report.html" if targets else Path()
    arms = [each.arm for each in found.values() if each.arm is not None]
    if len(targets) == 1 and len(arms) > 1 and holds_runs(targets[0]):
        decision = decide(arms, how_compared(targets[0]).rule)
    told = in_short(found, decision, BASE)
    each = ((name, told[name]) for name in shown.names)
    columns = [Column(name, one.mark, one.tone, one.badge, one.facts) for name, one in each]
    base, task = words.base_called(shown.model), "" if free else shown.task.name
    heading = Heading(
        title=f"{base} and what was made of it" if len(columns) > 1 else base,
        facts=" · ".join(filter(None, [task, f"{len(columns)} side by side" if len(columns) > 1 else ""])),
        verdict=words.unbroken(decision.headline) if decision else "",
        reason=words.unbroken(decision.reason) if decision else "",
        report=report if decision and report.is_file() else None,
    )
    return heading, columns
