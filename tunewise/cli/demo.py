"""`tunewise demo`: eight ways to adapt the embedded base to its sentiment task, three seeds each."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunewise.cli.compare import Workers, seeds_of
from tunewise.cli.console import AsJson, Out, print_json, progress_lines, results, this_command
from tunewise.cli.unproved import refuse_unproved
from tunewise.processes import import_meanwhile

if TYPE_CHECKING:
    from tunewise.data.task import Task
    from tunewise.methods.attach import Tuned
    from tunewise.models.load import Base
    from tunewise.report.arms import Arm
    from tunewise.report.samples import Sample

TASK = "tiny:sentiment"
N_TRAIN = 400
TRAIN = {"epochs": 3.0, "batch_size": 16, "evaluate_every": None}
# label: method, learning rate. `tiny` is a thousand times smaller than the models of the papers and wants higher rates
# than most of the methods' own; they were chosen on dev with seed 0 (one forgets less of two that are as good there).
ARMS: dict[str, tuple[dict[str, Any], float | None]] = {
    "zero-shot": ({"name": "frozen"}, None),
    "8-shot": ({"name": "frozen", "shots": 8}, None),
    "LoRA": ({"name": "lora", "rank": 8, "roles": ["all"]}, 4e-3),
    "BitFit": ({"name": "bitfit", "add": True}, 5e-2),
    "bottleneck": ({"name": "bottleneck", "bottleneck": 32}, 1e-3),
    "prompt tuning": ({"name": "prompt_tuning", "virtual_tokens": 16}, 3e-2),
    "top 2 layers": ({"name": "top_layers", "layers": 2}, 2e-3),
    "full": ({"name": "full"}, 1e-3),
}
SHOWN = ("LoRA", "full")  # whose answers stand beside the base's
N_SAMPLES, N_NEW_TOKENS = 4, 16
STORY = "Kari went down to the quay and"  # what the base was made for: text that goes on


def demo(
    out: Out = None,
    model: Annotated[str, typer.Option("--model", "-m", help="tiny, a folder, or a hub name.")] = "tiny",
    seeds: Annotated[str, typer.Option(help="Seeds, with commas.")] = "0,1,2",
    steps: Annotated[
        int | None, typer.Option(help="Training steps, for a quick look.", show_default="3 epochs")
    ] = None,
    workers: Workers = 2,
    as_json: AsJson = False,
) -> None:
    """Eight ways to adapt the embedded base to its sentiment task: a table, answers side by side, a report page."""
    root, numbers = out or Path("demo"), seeds_of(seeds)
    import_meanwhile(workers)

    from tunewise.cli.progress import RunsProgress
    from tunewise.comparison import compare
    from tunewise.data.load import load_task
    from tunewise.models.load import load_base
    from tunewise.report.arms import diverged_of, read_arms
    from tunewise.report.page import write_page
    from tunewise.report.protocol import how_compared
    from tunewise.report.samples import write_samples
    from tunewise.report.table import print_comparison, print_samples
    from tunewise.training.reload import FRESH

    FRESH.stand_by()

    console = results()
    overrides = {"train.steps": steps} if steps else {}
    with RunsProgress(progress_lines()) as progress:
        found = compare(
            {"path": TASK, "train": N_TRAIN},
            model=model,
            methods=arms(),
            seeds=numbers,
            out=root,
            overrides=overrides,
            workers=workers,
            progress=progress,
        )
    table = read_arms(root)
    base = load_base(model)
    samples = answers(base, load_task(TASK, base.tokenizer), [arm for arm in table if arm.label in SHOWN])
    write_samples(root, samples)
    title = f"Eight ways to adapt {Path(model).name} to {TASK.removeprefix('tiny:')}"
    page = write_page(root, root / "report.html", title=title, commands=[this_command()])
    if as_json:
        print_json({**found, "page": str(page)})
    else:
        print_comparison(console, table, diverged_of(root), how_compared(root))
        print_samples(console, samples)
        console.print(f"\nreport: {page}", soft_wrap=True)
    refuse_unproved(table)


def arms() -> dict[str, dict[str, Any]]:
    """Label -> recipe fields of each way."""
    return {
        label: {"method": method, "train": {**TRAIN, "learning_rate": rate}} for label, (method, rate) in ARMS.items()
    }


def answers(base: "Base", task: "Task", shown: "list[Arm]") -> "list[Sample]":
    """The same test prompts, and the beginning of a story, continued by the base and by the middle run of each arm."""
    from tunewise.data.encode import encode_prompt
    from tunewise.engine.decoding import greedy
    from tunewise.methods.store import load_adapter
    from tunewise.report.samples import Sample

    tokenizer = base.tokenizer
    assert tokenizer is not None, "the demo's bases write text"
    chosen = [task.test[index * len(task.test) // N_SAMPLES] for index in range(N_SAMPLES)]
    texts = [*(example.prompt for example in chosen), STORY]
    prompts = [encode_prompt(text, tokenizer) for text in texts]

    def written(tuned: "Tuned | None") -> list[str]:
        prefix_ids = tuned.prefix_ids if tuned else ()
        return greedy(base.model, tokenizer, prompts, N_NEW_TOKENS, prefix_ids=prefix_ids)

    columns = {"base": written(None)}
    for arm in shown:
        tuned = load_adapter(base.model, arm.middle.folder / "adapter", tokenizer=base.tokenizer)
        base.model.eval()
        columns[arm.label] = written(tuned)
        tuned.detach()
    wanted = [*(example.answer.strip() for example in chosen), ""]
    samples = []
    for row, (text, right) in enumerate(zip(texts, wanted)):
        said = ((name, column[row]) for name, column in columns.items())
        told = tuple((name, answer, answer.strip() == right if right else None) for name, answer in said)
        samples.append(Sample(text, right or "text that goes on", told))
    return samples
