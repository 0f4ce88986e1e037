"""SQuAD's json, articles of paragraphs of questions, as one object a question.  Rajpurkar et al. 2016."""

from collections.abc import Iterable, Iterator


def questions(values: Iterable[tuple[int, object]]) -> Iterator[tuple[int, object]]:
    """(line, value) as they are, but an article as its questions: {id, title, context, question, answers}.

    The line is the article's. `answers` are objects with a text, all of them right.
    """
    for line, value in values:
        if isinstance(value, dict) and isinstance(value.get("paragraphs"), list):
            for paragraph in value["paragraphs"]:
                shared = {"title": value.get("title", ""), "context": paragraph["context"]}
                for asked in paragraph["qas"]:
                    yield line, shared | {name: asked[name] for name in ("id", "question", "answers") if name in asked}
        else:
            yield line, value
