"""A few rows for every cluster of templates, such that each of its templates fits one of them."""

import json
from pathlib import Path

from tunewise.data.config import DataConfig
from tunewise.data.load import load_task
from tunewise.data.task import Task

PLACES = ("quay", "market", "church", "mill", "harbour", "ferry", "bridge", "school")


def _labelled(*labels: str, pair: bool = False) -> list[dict]:
    rows = []
    for number, place in enumerate(PLACES):
        texts = {"text": f"The {place} was seen."} if not pair else {
            "premise": f"The {place} was seen by Kari.", "hypothesis": f"Kari looked at number {number}."
        }  # fmt: skip
        rows.append({**texts, "label": labels[number % len(labels)]})
    return rows


def _asked(question: str, answer: str) -> list[dict]:
    return [{question: f"Where is the {place}?", answer: place.upper()} for place in PLACES]


def _tagged() -> list[dict]:
    return [
        {"tokens": ["Kari", "Moen", "saw", place], "tags": ["B-PER", "I-PER", "O", "B-LOC"]} for place in PLACES[:6]
    ] + [{"tokens": ["Nobody", "came", "to", place], "tags": ["O", "O", "O", "B-LOC"]} for place in PLACES[6:]]


SAMPLES: dict[str, list[tuple[list[dict], dict]]] = {
    "sentiment": [(_labelled("positive", "negative"), {}), (_labelled("neg", "pos", "neutral"), {})],
    "topic": [(_labelled("sport", "world_news"), {})],
    "intent": [(_labelled("card_lost", "card_arrival"), {})],
    "category": [(_labelled("spam", "ham"), {})],
    "entailment": [
        (_labelled("entailment", "not_entailment", pair=True), {}),
        (_labelled("entailment", "neutral", "contradiction", pair=True), {}),
    ],
    "paraphrase": [(_labelled("0", "1", pair=True), {})],
    "extractive_qa": [
        ([{"context": f"It is at {p}.", "question": f"Where, of {n}?", "answers": [{"text": p}]}
          for n, p in enumerate(PLACES)], {}),
    ],
    "question_generation": [
        ([{"context": f"It is at {p}.", "question": f"Where, of {n}?", "answers": [{"text": p}]}
          for n, p in enumerate(PLACES)], {}),
    ],
    "closed_book_qa": [(_asked("question", "answer"), {})],
    "multiple_choice_qa": [
        ([{"question": f"Which is {p}?", "choices": [p, "none", "all"], "answer": 0} for p in PLACES], {}),
        ([{"context": f"Of {p}.", "question": f"Which is {p}?", "choices": ["none", p], "answer": "B"}
          for p in PLACES], {}),
    ],
    "commonsense": [
        ([{"premise": f"The {p} shut.", "question": ["cause", "effect"][n % 2], "choice1": f"{p} rained",
           "choice2": "no", "label": n % 2} for n, p in enumerate(PLACES)], {}),
        ([{"premise": f"The {p} shut.", "choice1": f"{p} rained", "choice2": "no", "label": n % 2}
          for n, p in enumerate(PLACES)], {}),
    ],
    "summarisation": [([{"document": f"Long ago, the {p} was built.", "summary": f"{p} old"} for p in PLACES], {})],
    "translation": [
        ([{"english": f"the {p}", "norwegian": f"{p}en"} for p in PLACES],
         {"prompt": "english", "completion": "norwegian"})
    ],
    "tagging": [(_tagged(), {})],
    "grammaticality": [
        ([{"sentence_good": f"The {p} is here.", "sentence_bad": f"{p} The here is."} for p in PLACES], {}),
        (_labelled("acceptable", "unacceptable"), {}),
    ],
    "data_to_text": [
        ([{"mr": f"name[{p}]", "reference": f"There is a place named {p}."} for p in PLACES],
         {"prompt": "mr", "completion": "reference"}),
    ],
    "arithmetic": [
        ([{"question": f"How many at the {p}?", "answer": f"At {p} 1+{n}=<<1+{n}={n + 1}>>{n + 1}.\n#### {n + 1}"}
          for n, p in enumerate(PLACES)], {}),
    ],
}  # fmt: skip


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def sample_tasks(cluster: str, folder: Path) -> list[Task]:
    """The tasks of this cluster's rows."""
    tasks = []
    for number, (rows, fields) in enumerate(SAMPLES[cluster]):
        path = write_rows(folder / f"{cluster}{number}.jsonl", rows)
        tasks.append(load_task(DataConfig(path=str(path), **fields)))
    return tasks
