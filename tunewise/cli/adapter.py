"""`tunewise adapter start|push|check|merge|show|combine|diff|dial`: adapter folders, ours or peft's."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunewise.cli.adapter_push import push
from tunewise.cli.adapter_start import start
from tunewise.cli.console import AsJson, Data, Model, leave_unproved, print_json, results, verb
from tunewise.errors import UserError, unknown

if TYPE_CHECKING:
    from tunewise.models.load import Base

app = typer.Typer(
    name="adapter", help="Start, check, merge, combine, compare, dial, show or push adapters.", no_args_is_help=True
)
app.command("start")(verb(start))
app.command("push")(verb(push))

Folder = Annotated[
    Path, typer.Argument(help="An adapter folder, a run folder that holds one, or a hub name.", show_default=False)
]


@app.command()
@verb
def check(
    folders: Annotated[list[Path], typer.Argument(help="Adapter or run folders.", show_default=False)],
    model: Model = None,
    as_json: AsJson = False,
) -> None:
    """Reload adapters and prove them: same logits, an effect, off is the base, fold equals attached.

    Exits with 4 where a proof failed.
    """
    from tunewise.adapter_folders import find_adapter
    from tunewise.report.table import print_proofs
    from tunewise.run import base_of_adapter, failed_proofs, prove_adapter

    found = {}
    for folder in map(find_adapter, folders):
        found[str(folder)] = prove_adapter(folder, base_of_adapter(folder, model))
    if as_json:
        print_json(found)
    else:
        for name, proofs in found.items():
            results().print(name, style="bold", soft_wrap=True)
            print_proofs(results(), proofs)
    failed = [f"{name} of {folder}" for folder, proofs in found.items() for name in failed_proofs(proofs)]
    leave_unproved(failed, "is this the base, and the version of it, that the adapter was made for? --model FOLDER")


@app.command()
@verb
def merge(
    folder: Folder,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The folder for the merged model.", show_default=False)
    ] = None,
    route: Annotated[
        str,
        typer.Option(
            help="On a quantised base: dequantised, original or attached; without one, all are measured and none taken."
        ),
    ] = "",
    data: Data = None,
    limit: Annotated[int, typer.Option(min=1, help="So many rows, by which routes are measured.")] = 64,
    model: Model = None,
    as_json: AsJson = False,
) -> None:
    """Fold an adapter into its base and write a full transformers model folder.

    Exits with 4 where the model that is written does not say what the base with the adapter on it does.
    """
    if route not in ("", "dequantised", "original", "attached"):
        raise unknown("route", route, ("dequantised", "original", "attached"))
    if route == "attached" and out is not None:
        raise UserError("served attached, the adapter stays as it is: there is nothing to write", "leave out --out")
    if route in ("dequantised", "original"):
        named(out)
    if data is not None:
        from tunewise.data.found import find

        find(data)
    from tunewise import files
    from tunewise.adapter_folders import find_adapter, refuse_loss
    from tunewise.run import base_of_adapter, failed_proofs, merge_adapter, prove_merged, save_merged

    adapter = find_adapter(folder)
    if out is not None:
        refuse_loss(out, [adapter])
    base = base_of_adapter(adapter, model)
    if base.quantise or route or data is not None:
        place = folder if folder.is_dir() else adapter  # of a run its data are known as well
        _merge_by_route(place, base, route, out, data, limit, as_json)
        return
    out = named(out)
    merged = merge_adapter(base, adapter)
    proofs = prove_merged(adapter, base, merged)
    with files.folder(out) as new:
        named_on_the_hub = {"adapter": str(folder), "base": base.name, "quantise": base.quantise}
        save_merged(merged, base, adapter, new, None if folder.is_dir() else named_on_the_hub)
    n_bytes = sum(file.stat().st_size for file in out.iterdir())
    if as_json:
        told = {"folder": str(out), "bytes": n_bytes, "base": base.name, "adapter": str(adapter), "proofs": proofs}
        print_json(told)
    else:
        told = f"merged {adapter if folder.is_dir() else folder} into {base.name}"
        results().print(f"{told}: wrote {out}, {n_bytes / 1e6:.1f} MB", soft_wrap=True)
    check = shlex.join(["tunewise", "adapter", "check", str(folder)])
    leave_unproved(failed_proofs(proofs), f"{out} is there, and does not say what the adapter does: {check}")


def _merge_by_route(
    folder: Path, base: "Base", route: str, out: Path | None, data: str | None, limit: int, as_json: bool
) -> None:
    """What the routes change is printed; UserError, with the command to type, where none was chosen."""
    from tunewise.report.routes import print_routes
    from tunewise.run import merge_by, weigh_routes

    if route in ("dequantised", "original"):
        found = {"folder": str(out), **merge_by(base, folder, route, named(out), data=data, limit=limit)}
    else:
        found = weigh_routes(base, folder, data=data, limit=limit)
    if as_json:
        print_json(found)
    else:
        print_routes(results(), found)
    if not route:
        command = f"tunewise adapter merge {shlex.quote(str(folder))} --route dequantised|original --out FOLDER"
        raise UserError(
            f"{base.name} is quantised ({base.quantise}): nothing was merged", f"take one of the routes: {command}"
        )


def named(out: Path | None) -> Path:
    """The folder that is written; UserError where none was named."""
    if out is None:
        raise UserError("a merged model needs a folder", "add --out FOLDER")
    return out


@app.command()
@verb
def show(folder: Folder, as_json: AsJson = False) -> None:
    """Print what an adapter folder says about itself; --json has also the fields that are null, false, 0 or empty."""
    from tunewise.adapter_folders import card_of, find_adapter
    from tunewise.config import dump_yaml

    card = card_of(find_adapter(folder))
    if as_json:
        print_json(card)
        return
    said, n_others = what_is_said(card)
    results().print(dump_yaml(said), end="", markup=False, soft_wrap=True)
    if n_others:
        fields = "1 more field, which is" if n_others == 1 else f"{n_others} more fields, which are"
        results().print(f"{fields} null, false, 0 or empty: --json has them", style="dim")


def what_is_said(card: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """A card without its fields that are null, false, 0 or empty, those of its sections too; how many these are."""
    said, n_others = {}, 0
    for name, value in card.items():
        inner, n_inside = what_is_said(value) if isinstance(value, dict) else (value, 0)
        n_others += n_inside if inner else max(1, n_inside)
        if inner:
            said[name] = inner
    return said, n_others


@app.command()
@verb
def combine(
    folders: Annotated[list[Path], typer.Argument(help="Adapter or run folders.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for the new adapter.", show_default=False)],
    weights: Annotated[
        str | None, typer.Option(help="One weight an adapter, such as 0.7,0.3; their mean if not given.")
    ] = None,
    how: Annotated[str, typer.Option(help="linear, ties, dare or dare_ties.")] = "linear",
    density: Annotated[float, typer.Option(help="The share of entries that ties and dare keep.")] = 0.5,
    rank: Annotated[int | None, typer.Option(help="Rank of the new LoRA; as much as is needed if not given.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of what dare drops.")] = 0,
    model: Model = None,
    as_json: AsJson = False,
) -> None:
    """Add adapters of one base up into a new LoRA; one adapter and a lower --rank makes it smaller."""
    from tunewise.adapter_folders import find_adapter
    from tunewise.run import base_of_adapter, combine_adapters

    if how not in ("linear", "ties", "dare", "dare_ties"):
        raise unknown("way to combine", how, ("linear", "ties", "dare", "dare_ties"))
    adapters = [find_adapter(folder) for folder in folders]
    found = combine_adapters(
        base_of_adapter(adapters[0], model), adapters, out,
        weights=numbers(weights), how=how, density=density, rank=rank, seed=seed,
    )  # fmt: skip
    if as_json:
        print_json(found)
    else:
        rank_now = found["method"]["rank"]
        results().print(
            f"wrote {out}: a LoRA of rank {rank_now} that misses the sum by {100 * found['error']:.2g} % at most",
            soft_wrap=True,
        )


@app.command()
@verb
def diff(folder: Folder, other: Folder, model: Model = None, as_json: AsJson = False) -> None:
    """Compare what two adapters of one base change, site by site: norms, and the cosine between them."""
    from rich.table import Table

    from tunewise.adapter_folders import find_adapter
    from tunewise.run import base_of_adapter, compare_adapters

    one, two = find_adapter(folder), find_adapter(other)
    found = compare_adapters(base_of_adapter(one, model), one, two)
    if as_json:
        print_json(found)
        return
    table = Table("site", "norm", "other norm", "cosine", box=None)
    for site, row in found.items():
        table.add_row(site, f"{row['norm']:.4g}", f"{row['other_norm']:.4g}", f"{row['cosine']:+.3f}")
    results().print(table)


@app.command()
@verb
def dial(
    folder: Folder,
    points: Annotated[int, typer.Option(min=2, help="How many λ from 0 (the base) to 1 (the adapter).")] = 11,
    keep: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="The share of the best gain on dev that the λ to take must keep.")
    ] = 0.95,
    save: Annotated[
        Path | None, typer.Option(help="A folder for an adapter that loads at the λ to take.", show_default="none")
    ] = None,
    model: Model = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Turn an adapter down: the task's score against what is forgotten at several λ, and the λ to take."""
    from tunewise.report.table import print_dial
    from tunewise.run import dial_adapter

    found = dial_adapter(folder, points=points, keep=keep, model=model, data=data, save=save)
    if as_json:
        print_json(found)
        return
    print_dial(results(), found)
    if save is not None:
        results().print(f"wrote {save}: it loads at λ = {found['knee']:g}", soft_wrap=True)


def numbers(text: str | None) -> list[float] | None:
    """0.7,0.3 as numbers; UserError for what is none."""
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(f"--weights {text} is no list of numbers", "write them like 0.7,0.3") from error
