"""How a task is asked, kept beside what came of it: a run is asked where the rows that it was trained on are not."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, overload

from transformers import PreTrainedTokenizerBase

from tunewise import files
from tunewise.adapter_folders import CARD
from tunewise.data.chat_template import template_of_source
from tunewise.data.encode import end_ids
from tunewise.data.examples import Example, Ledger, Part
from tunewise.data.mixture import MIXTURE
from tunewise.data.splits import Unread, few_shot
from tunewise.data.streamed import witnesses_of
from tunewise.data.task import METRICS, Gist, Task
from tunewise.data.template import Template
from tunewise.errors import UserError
from tunewise.evaluation.questions import stop_text
from tunewise.methods.selective.frozen import Frozen
from tunewise.methods.store import read_card

ASKED = "asked.json"
"""In the folder of a run without an adapter, whose notes have the same."""
DRAWS = ("seed", "method.balanced")
"""Fields that decide which demonstrations are drawn."""

Kept = Mapping[str, Any]
"""What `kept` tells."""


def kept(task: Task, tokenizer: PreTrainedTokenizerBase | None) -> dict[str, Any]:
    """All that a question to this task takes but demonstrations: of conversations the template too, and the ids that
    end an answer."""
    told = {
        "kind": task.kind,
        "template": asdict(task.template),
        "labels": list(task.labels),
        "separator": task.separator,
    }
    if task.kind != MIXTURE:
        told |= {
            "stop": stop_text(task),
            "max_new_tokens": task.max_new_tokens,
            "asked": list(task.asked),
            "reads_images": task.reads_images,
        }
    if task.chat is None or tokenizer is None:
        return told
    return {**told, "chat_template": task.chat.source, "ends": list(end_ids(witnesses_of(task.train), tokenizer))}


def shown(task: Task, method: Frozen, seed: int) -> list[dict[str, Any]]:
    """The demonstrations of a run, as they are kept."""
    drawn = few_shot(task.train, method.shots, seed, method.balanced) if method.shots else ()
    return [{"id": one.id, "prompt": one.prompt, "answer": one.answer, "end": one.end} for one in drawn]


def kept_in(run: Path | None, adapter: Path | None) -> Kept | None:
    """What was kept in these two folders; None where it does not suffice to ask: of mixtures, and of older folders."""
    if adapter is not None:
        found = read_card(adapter)["notes"] if (adapter / CARD).is_file() else {}
    else:
        found = files.read_json(run / ASKED) if run is not None and (run / ASKED).is_file() else {}
    return found if isinstance(found, dict) and "stop" in found else None


def task_kept(told: Kept, name: str, tokenizer: PreTrainedTokenizerBase | None) -> Task:
    """The task without its rows; of its training part there are the demonstrations."""
    source, kind = told.get("chat_template", ""), told["kind"]
    chat = template_of_source(f"the chat template of {name}", source, tokenizer) if source else None
    return Task(
        name=name, kind=kind, template=Template(**told["template"]), labels=tuple(told["labels"]),
        metrics=METRICS[kind], train=_Demonstrations(told.get("demonstrations", ())), dev=(), test=(), ledger=Ledger(),
        separator=told["separator"], max_new_tokens=told["max_new_tokens"], source="", asked=tuple(told["asked"]),
        chat=chat, gist=Gist(told["stop"], told["reads_images"]),
    )  # fmt: skip


class _Demonstrations(Unread):
    """Those of a run, in their order; no others can be drawn."""

    def __init__(self, rows: Iterable[Mapping[str, str]]) -> None:
        self._examples = tuple(
            Example(row["id"], (Part(row["prompt"], False), Part(row["answer"], True)), end=row["end"]) for row in rows
        )

    def __len__(self) -> int:
        return len(self._examples)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | Sequence[Example]:
        return self._examples[index]

    def drawn(self, k: int, seed: int, *, balanced: bool) -> Iterable[int]:
        if k < len(self):
            raise UserError(
                f"of {len(self)} demonstrations that were kept, {k} are asked for", "--data FILE has others"
            )
        return range(len(self))
