"""SQuAD's json, articles of paragraphs of questions, as one object a question.  Rajpurkar et al. 2016."""

from collections.abc import Iterable, Iterator

from tunewise.errors import UserError


def questions(values: Iterable[tuple[int, object]]) -> Iterator[tuple[int, object]]:
    """(line, value) as they are, but an article as its questions: {title, context, id, question, answers}.

    The line is the article's. `answers` are objects with a text, all of them right. UserError for an article whose
    paragraphs have no context, or no questions.
    """
    for line, value in values:
        if not (isinstance(value, dict) and isinstance(value.get("paragraphs"), list)):
            yield line, value
            continue
        for paragraph in value["paragraphs"]:
            asked = paragraph.get("qas") if isinstance(paragraph, dict) else None
            if not isinstance(asked, list) or "context" not in paragraph:
                raise UserError(
                    f"the article on line {line} has a paragraph without context or qas",
                    'write each as {"context": "...", "qas": [{"question": "...", "answers": [{"text": "..."}]}]}',
                )
            shared = {"title": value.get("title", ""), "context": paragraph["context"]}
            yield from ((line, shared | one if isinstance(one, dict) else one) for one in asked)
