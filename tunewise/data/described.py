"""The task.yaml of a task folder, and what it says that the columns are."""

from pydantic import field_validator

from tunewise.config import Strict
from tunewise.data.choices import Choices, counting_of
from tunewise.data.readers import Row, columns
from tunewise.data.shapes import IN_CHOICES, Kind, Shape
from tunewise.data.template import Template
from tunewise.errors import UserError, unknown


class TaskFile(Strict):
    """The task.yaml of a task folder."""

    name: str
    kind: Kind
    prompt: str
    """Template of the prompt."""
    answer: str
    """Template of the answer; of multiple choice, {choice} is the text of a choice and {letter} its letter."""
    labels: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    """Multiple choice: the column with the list of choices, or those with one each; `label` names the right one.
    Minimal pairs: the column of the good sentence, and that of the bad one."""
    metrics: tuple[str, ...] = ()
    """Of those that are there; code is named by a recipe and not by a folder of data."""
    positive: str = ""
    """The label that the metric f1 counts."""
    separator: str = "\n\n"
    max_new_tokens: int = 16
    license: str = ""
    description: str = ""

    @field_validator("metrics")
    @classmethod
    def _no_code(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := next((name for name in metrics if ".py:" in name), None):
            raise ValueError(f"{wrong} is code, which no folder of data names; write data.metrics in the recipe")
        return metrics


def shape_of(file: TaskFile, parts: dict[str, list[Row]], where: str) -> Shape:
    """The shape of a folder's rows (part -> its rows); UserError for a column that a part does not have."""
    template = Template(file.prompt, file.answer)
    answered = next(iter(Template("", file.answer).fields()), "")
    asked = Template(file.prompt, "").fields()
    needed = template.fields()
    if file.kind in ("multiple_choice", "minimal_pairs"):
        if not file.choices or (file.kind == "minimal_pairs" and len(file.choices) != 2):
            raise UserError(f"{where} does not say which columns hold the choices", "write choices: [COLUMN, COLUMN]")
        own = IN_CHOICES if file.kind == "multiple_choice" else ()
        needed = (*(slot for slot in needed if slot not in own), *file.choices)
    for part, rows in parts.items():
        for slot in needed:
            if slot not in columns(rows):
                raise unknown(f"column of {where}/{part}.jsonl", slot, columns(rows))
    match file.kind:
        case "classification":
            return Shape("text and label", asked, "label")
        case "regression":
            return Shape("text and value", asked, "label")
        case "tagging":
            return Shape("words and tags", asked, answered)
        case "generation":
            return Shape("prompt and completion", asked, answered)
        case "language_modelling":
            return Shape("text", (answered,))
        case "minimal_pairs":
            return Shape("minimal pairs", file.choices)
        case "multiple_choice":
            every = [row for rows in parts.values() for row in rows]
            counting = counting_of(every, file.choices, "label")
            if counting is None:
                raise UserError(f"label of {where} names none of a row's choices", "give its letter, number or text")
            asked = tuple(slot for slot in asked if slot not in IN_CHOICES)
            return Shape("question and choices", asked, "label", Choices(file.choices, counting))
