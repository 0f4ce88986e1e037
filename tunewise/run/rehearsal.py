"""The rows that a run is trained on: those of its task, and those that are replayed beside them."""

from collections.abc import Sequence

from tunewise.data.encode import Encoded
from tunewise.data.examples import Ledger
from tunewise.data.replay import added, encode_texts
from tunewise.data.task import Task
from tunewise.engine.objectives import encode_rows
from tunewise.errors import UserError
from tunewise.models.families import DECODER
from tunewise.models.load import Base


def training_rows(base: Base, task: Task, max_length: int) -> tuple[Sequence[Encoded], Sequence[Encoded], Ledger]:
    """(rows with an answer, rows of text, the account of all), at most `max_length` tokens each.

    UserError for a base that cannot be trained on what is to be replayed.
    """
    rows, ledger = encode_rows(base, task, task.train, max_length)
    texts: list[Encoded] = []
    for each in task.replayed:
        if base.head.kind != "lm" or (each.is_text and base.anatomy.kind != DECODER):
            raise UserError(
                f"{base.name} with this head is not trained on {'texts' if each.is_text else 'answers in words'} "
                f"such as {each.source}",
                "leave data.replay out",
            )
        if each.is_text:
            assert base.tokenizer is not None
            found, of_source = encode_texts(each.examples, base.tokenizer, max_length)
            texts += found
        else:
            found, of_source = encode_rows(base, task, each.examples, max_length)
            rows = [*rows, *found]
        ledger = added(ledger, of_source, each.source)
    return rows, texts, ledger
