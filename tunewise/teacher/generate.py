"""A set of instructions from a stronger model, in a folder that goes on where it stopped."""

from pathlib import Path
from typing import Any

from tunewise import files
from tunewise.config import dump_yaml, read_yaml
from tunewise.errors import UserError
from tunewise.teacher.account import Account, costs
from tunewise.teacher.budget import Budget
from tunewise.teacher.desk import Desk, Watcher
from tunewise.teacher.journal import Journal
from tunewise.teacher.outputs import Outputs, read_prompts
from tunewise.teacher.prompts import VERSION
from tunewise.teacher.seeds import read_seeds
from tunewise.teacher.self_instruct import SelfInstruct
from tunewise.teacher.settings import Extent, Wanted
from tunewise.teacher.teacher import Teacher, Unanswered
from tunewise.training.interrupt import Interrupted, Interrupts

ROWS, JOURNAL, REJECTED, ASKED, SUMMARY = (
    "rows.jsonl", "journal.jsonl", "rejected.jsonl", "generate.yaml", "summary.json"
)  # fmt: skip
N_ROWS = 500


def generate(
    teacher: Teacher, source: str | Path, out: str | Path, wanted: Wanted, extent: Extent, told: Watcher | None = None
) -> dict[str, Any]:
    """Write a set that `teacher` makes from the file `source` into the folder `out`, and say what it took.

    `source` holds seed tasks, or the prompts to be answered where `wanted.kind` is outputs. A folder that holds a part
    of the same run goes on: nothing that is in its journal is asked again. The rows, the rejected proposals and the
    summary are written whenever it ends: Unanswered, for a teacher that cannot be reached any more, and Interrupted,
    for a signal, are raised after that. UserError for a folder with another run, or in use.
    """
    folder = Path(out)
    digest = files.sha256(source)
    wanted = wanted.model_copy(update={"teacher": teacher.name, "source": digest, "template": VERSION})
    outputs = wanted.kind == "outputs"
    asked, seeds = (read_prompts(source), []) if outputs else ([], read_seeds(source))
    n = min(extent.n or len(asked), len(asked)) if outputs else extent.n or N_ROWS
    budget, account = Budget(extent.max_requests, extent.max_tokens), Account()
    with files.held(folder / "RUNNING"), Interrupts() as interrupts:
        journal = Journal(folder / JOURNAL, budget)
        _same_run(folder, wanted, journal)
        is_whole = _n_written(folder) >= n
        if is_whole:  # the last answers of a round may be missing, and are not needed
            budget.max_requests = budget.sent
        desk = Desk(teacher, journal, budget, interrupts, told or (lambda n, budget: None))
        maker = Outputs(asked, wanted, desk, account) if outputs else SelfInstruct(seeds, wanted, desk, account)
        rows = maker.run(n)
        if desk.failure and not budget.n_answered:
            raise desk.failure
        summary = {
            "folder": str(folder),
            "teacher": teacher.name,
            "rows": len(rows),
            "wanted": n,
            "stopped": "" if is_whole else desk.why_stopped,
            **costs(budget, journal.replies, extent.prices),
            "proposals": account.table(),
        }
        files.write_jsonl(folder / ROWS, [row.plain() for row in rows])
        files.write_jsonl(folder / REJECTED, account.rejected)
        files.write_json(folder / SUMMARY, summary)
    if desk.failure:
        raise Unanswered(desk.failure.message, f"{desk.failure.hint or 'try again later'}; {_kept(folder, budget)}")
    if interrupts.requested:
        raise Interrupted(f"stopped by {interrupts.requested}", _kept(folder, budget))
    return summary


def _n_written(folder: Path) -> int:
    """Rows that the run in this folder ended with; 0 where none did."""
    summary = files.read_json(folder / SUMMARY) if (folder / SUMMARY).is_file() else {}
    return summary.get("rows", 0) if isinstance(summary, dict) else 0


def _kept(folder: Path, budget: Budget) -> str:
    return f"the {budget.n_answered:,} answers in {folder / JOURNAL} are kept, and the same command goes on from there"


def _same_run(folder: Path, wanted: Wanted, journal: Journal) -> None:
    """Write down what is asked for; UserError where the folder has answers to what was asked for otherwise."""
    now = wanted.model_dump(mode="json")
    if journal.replies:
        before = read_yaml(folder / ASKED)
        other = next((name for name, value in now.items() if before.get(name) != value), None)
        if other is not None:
            told = "of another file" if other == "source" else f"with {other} {before.get(other)}, not {now[other]}"
            raise UserError(f"{folder} holds a run {told}", "name a new folder, or ask for the same")
    files.write_text(folder / ASKED, dump_yaml(now))
