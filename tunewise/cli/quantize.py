"""`tunewise quantize`: a quantised checkpoint of a base, and a report of what it lost."""

from typing import Annotated

import typer

from tunewise.cli.console import AsJson, Data, Out, print_json, progress_lines, results, this_command


def quantize(
    model: Annotated[str, typer.Argument(help="tiny, a folder, or a hub name.", show_default=False)],
    format: Annotated[
        str, typer.Option("--format", "-f", help="nf4, fp4 or int8; nf4-ends8: embedding and head in int8.")
    ] = "nf4",
    out: Out = None,
    data: Data = None,
    limit: Annotated[int, typer.Option(min=1, help="So many rows of --data, test rows first.")] = 128,
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16: of what is not quantised.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Store a base's weights in 4 or 8 bits, and measure what each of them lost and what --data then costs."""
    from tunewise.data.found import find

    if data is not None:
        find(data)

    from tunewise import files
    from tunewise.report.quantisation import PAGE, page_text, print_quantisation
    from tunewise.run import quantize as quantize_base

    found = quantize_base(model, format, out=out, data=data, limit=limit, dtype=dtype)
    if out is not None:
        files.write_text(out / PAGE, page_text(found, commands=[this_command()]))
    if as_json:
        print_json(found)
        return
    print_quantisation(results(), found)
    if out is None:
        told = "nothing was written; --out FOLDER keeps the checkpoint, and this report as a page"
        progress_lines().print(told, soft_wrap=True)
