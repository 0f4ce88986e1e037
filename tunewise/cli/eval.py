"""`tunewise eval`: a run, an adapter or a bare base, measured on a task, or on tasks of lm-evaluation-harness."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from tunewise.cli.console import AsJson, Data, Model, Out, print_json, results
from tunewise.errors import UserError

Harness = Annotated[
    str | None, typer.Option(help="Tasks of lm-evaluation-harness instead of --data: mmlu,bbh.", show_default=False)
]
Limit = Annotated[
    int | None,
    typer.Option(
        min=1, help="Only so many of each source, drawn by data.seed; of --harness the first.", show_default="all"
    ),
]
HarnessTasks = Annotated[
    Path | None, typer.Option(help="A folder with task files (yaml) of your own for it.", show_default=False)
]
Shots = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Demonstrations in the prompt, drawn from the training split.",
        show_default="the run's or the task's",
    ),
]


def evaluate(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN_OR_ADAPTER] [FIELD=VALUE]...",
            help="A run or adapter folder, and overrides such as quantise=nf4 generation.do_sample=true.",
            show_default=False,
        ),
    ] = None,
    model: Model = None,
    data: Data = None,
    split: Annotated[str, typer.Option(help="test, dev, train or all.")] = "test",
    shots: Shots = None,
    seed: Annotated[
        int | None, typer.Option(help="Which demonstrations and tokens are drawn.", show_default="the run's, or 0")
    ] = None,
    limit: Limit = None,
    harness: Harness = None,
    harness_tasks: HarnessTasks = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a run or an adapter, or with --model alone a base as it is."""
    from tunewise.cli.recipes import assigned, split_words
    from tunewise.data.found import find

    target, assignments = split_words(words or [])
    overrides = ({} if seed is None else {"seed": seed}) | assigned(assignments)
    if harness is not None or harness_tasks is not None:
        tasks = _tasks(harness, {"--data": data, "--split": None if split == "test" else split, "--seed": seed})

        from tunewise.run import evaluate_with_harness

        found = evaluate_with_harness(
            target, tasks, model=model, tasks_folder=harness_tasks, shots=shots, limit=limit, out=out,
            overrides=overrides,
        )  # fmt: skip
        print_json(found) if as_json else _print_tasks(found["tasks"])
        return
    if target is None and model is None:
        raise UserError("nothing to evaluate", "give a run or adapter folder, or --model tiny --data tiny:sentiment")
    if data is not None:
        find(data)

    from tunewise.report.table import print_evaluation
    from tunewise.run import evaluate as evaluate_run

    found = evaluate_run(
        target, model=model, data=data, split=split, shots=shots, limit=limit, out=out, overrides=overrides
    )  # fmt: skip
    if as_json:
        print_json(found)
    else:
        print_evaluation(results(), found)


def _tasks(harness: str | None, others: Mapping[str, object]) -> list[str]:
    """The tasks that --harness names; UserError for none, and for one of the `others` that was given."""
    for flag, value in others.items():
        if value is not None:
            raise UserError(f"{flag} {value} means nothing to the harness", f"leave {flag} out, or --harness")
    tasks = [task.strip() for task in (harness or "").split(",") if task.strip()]
    if not tasks:
        raise UserError("no task for the harness", "name some: --harness mmlu,bbh, or one of your --harness-tasks")
    return tasks


def _print_tasks(tasks: dict[str, dict[str, Any]]) -> None:
    """A line a metric: the task, the metric, its value and its standard error."""
    width = max(map(len, tasks), default=0) + 2
    for task, scores in tasks.items():
        for name, value in scores.items():
            if name != "n" and "_stderr" not in name:
                error = scores.get(name.replace(",", "_stderr,", 1) if "," in name else f"{name}_stderr")
                told = "" if error is None else f" ± {error:.4f}"
                n = f"  ({scores['n']} items)" if "n" in scores else ""
                results().print(f"{task:<{width}}{name:<18}{value:.4f}{told}{n}", soft_wrap=True)
