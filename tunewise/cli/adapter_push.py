"""`tunewise adapter push`: an adapter or a model to the Hugging Face hub, after saying what would leave the machine."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunewise.cli.console import BAD_INPUT, UNPROVED, AsJson, Model, print_json, progress_lines, results
from tunewise.errors import UserError

if TYPE_CHECKING:
    from tunewise.publish import Parcel


def push(
    folder: Annotated[
        Path, typer.Argument(help="A run, an adapter folder, or a merged or quantised model.", show_default=False)
    ],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Where to, on the hub.", show_default=False)],
    private: Annotated[bool, typer.Option("--private", help="Make a repository that only its owner can read.")] = False,
    revision: Annotated[str, typer.Option(help="A branch, made where it is not there; the main one if left out.")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Send it without asking.")] = False,
    model: Model = None,
    as_json: AsJson = False,
) -> None:
    """Send an adapter or a model to the Hugging Face hub: shown first, sent when agreed to, then proved from there."""
    from tunewise.publish import pack, send

    parcel = pack(folder, repository, private=private, revision=revision)
    _show(parcel)
    if not yes:
        if not sys.stdin.isatty():
            raise UserError("nothing was sent", "add --yes to send it")
        if not typer.confirm("Send it?", err=True):
            raise typer.Exit(BAD_INPUT)
    found = send(parcel, model)
    proof = found["proof"]
    if as_json:
        print_json(found)
    else:
        results().print(f"sent to {found['address']}, commit {found['commit'][:8]}", soft_wrap=True)
        verdict = "the same files, and the same logits" if proof["passed"] else "NOT what was sent"
        results().print(
            f"loaded back from there as {found['name']}: {verdict} (largest difference {proof['logits_differ_by']:g}"
            f"{', changed: ' + ', '.join(proof['files_changed']) if proof['files_changed'] else ''})",
            soft_wrap=True,
        )
    if not proof["passed"]:
        raise typer.Exit(UNPROVED)


def _show(parcel: "Parcel") -> None:
    """What would leave the machine, where progress goes."""
    from tunewise.report.words import size

    console, sizes = progress_lines(), parcel.sizes
    width = max(map(len, sizes))
    for path, n_bytes in sizes.items():
        console.print(f"  {path:{width}}  {size(n_bytes):>8}", soft_wrap=True)
    for path in parcel.removed:
        console.print(f"  {path:{width}}   removed", soft_wrap=True)
    new = "new and private" if parcel.private else "new, and as public as your account makes them"
    console.print(
        f"{len(sizes)} files, {size(sum(sizes.values()))}, from {parcel.folder} to {parcel.name} "
        f"({f'there already, {parcel.there}' if parcel.there else new}) as {parcel.user}",
        soft_wrap=True,
    )
    for told in parcel.told:
        console.print(f"note: {told}", soft_wrap=True)
