"""Objects that hold several rows -> an object a row: SQuAD's articles of questions, self-instruct's tasks."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from tunewise.errors import UserError


def opened(path: Path, values: Iterable[tuple[int, object]]) -> Iterator[tuple[int, object]]:
    """(line, value) as they are, but what holds several rows as each of them, all on the line of the whole."""
    for line, value in values:
        if isinstance(value, dict) and isinstance(value.get("paragraphs"), list):
            yield from ((line, question) for question in _questions(path, line, value))
        elif isinstance(value, dict) and "instruction" in value and isinstance(value.get("instances"), list):
            yield from ((line, instance) for instance in _instances(value))
        else:
            yield line, value


def _questions(path: Path, line: int, article: dict) -> Iterator[object]:
    """{title, context, id, question, answers} of each question; `answers` are objects with a text, all of them right.

    UserError for an article whose paragraphs have no context, or no questions. Rajpurkar et al. 2016.
    """
    for paragraph in article["paragraphs"]:
        asked = paragraph.get("qas") if isinstance(paragraph, dict) else None
        if not isinstance(asked, list) or "context" not in paragraph:
            raise UserError(
                f"{path}, line {line}: an article has a paragraph without context or qas",
                'write each as {"context": "...", "qas": [{"question": "...", "answers": [{"text": "..."}]}]}',
            )
        shared = {"title": article.get("title", ""), "context": paragraph["context"]}
        yield from (shared | one if isinstance(one, dict) else one for one in asked)


def _instances(task: dict) -> Iterator[object]:
    """{instruction, input, output, ...} of each instance; ids are made unlike by a running number. Wang et al. 2023."""
    shared = {name: value for name, value in task.items() if name != "instances"}
    several = len(task["instances"]) > 1
    for number, instance in enumerate(task["instances"], start=1):
        own = {"id": f"{task['id']}.{number}"} if several and "id" in task else {}
        yield shared | own | instance if isinstance(instance, dict) else instance
