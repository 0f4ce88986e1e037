"""`tunewise data templates`: the clusters of templates, or every template of one."""

from typing import Annotated

import typer

from tunewise.cli.console import AsJson, print_json, results


def templates(
    cluster: Annotated[
        str | None,
        typer.Argument(help="One of the clusters, or a yaml file of your own, which is checked.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the clusters of templates, or print the templates of one as they are written."""
    from rich.table import Table
    from rich.text import Text

    from tunewise.data.instruct.clusters import cluster_names, read_cluster

    if cluster is not None:
        found = read_cluster(cluster)
        if as_json:
            print_json(found.model_dump(mode="json"))
            return
        for name, template in found.templates.items():
            notes = [f"{slot} is {' or '.join(values) or 'anything'}" for slot, values in template.when.items()]
            told = "; ".join((["inverted"] if template.inverted else []) + notes)
            results().print(Text.assemble((name, "bold"), (f"  {told}" if told else "", "dim")))
            results().print(f"{template.prompt.rstrip()}\n-> {template.answer}\n", soft_wrap=True)
        return
    clusters = {name: read_cluster(name) for name in cluster_names()}
    if as_json:
        print_json({name: each.model_dump(mode="json", exclude={"templates"}) for name, each in clusters.items()})
        return
    table = Table(box=None, pad_edge=False)
    for name in ("cluster", "templates", "inverted", "slots", "what its rows hold"):
        table.add_column(name, justify="right" if name in ("templates", "inverted") else "left")
    for name, each in clusters.items():
        n_inverted = sum(template.inverted for template in each.templates.values())
        slots = [f"[{slot}]" if slot in each.optional else slot for slot in each.slots]
        table.add_row(name, str(len(each.templates)), str(n_inverted), ", ".join(slots), each.description)
    results().print(table)
