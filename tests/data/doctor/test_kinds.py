"""Every kind of task is examined to the end, and its rows are accounted for."""

import json
import random
from functools import partial

import pytest

from tests.bytes_tokenizer import bytes_tokenizer
from tests.data.doctor.sick_rows import read_by, sentence, whole
from tunewise.data.config import DataConfig
from tunewise.data.doctor import Rows, examine
from tunewise.data.labelled import READ, labelled_each
from tunewise.data.load import load_task


def of(kind, k):
    text = sentence(k, 5 + k % 9)
    return {
        "regression": {"text": text, "label": k / 7},
        "tagging": {"tokens": text.split(), "tags": [("O", "B-X")[word < "n"] for word in text.split()]},
        "multiple_choice": {"question": text, "choices": [sentence(k + 50), sentence(k + 90)], "answer": k % 2},
        "minimal_pairs": {"sentence_good": text, "sentence_bad": text[::-1]},
        "language_modelling": {"text": text},
        "pairs": {"premise": text, "hypothesis": sentence(k + 300), "label": "ab"[k % 2]},
        "squad": {"context": text, "question": sentence(k + 70), "answers": {"text": [text.split()[0]]}},
        "messages": {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": text[::-1]}]},
    }[kind]


KINDS = [
    "regression",
    "tagging",
    "multiple_choice",
    "minimal_pairs",
    "language_modelling",
    "pairs",
    "squad",
    "messages",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("read", [False, True])
def test_every_kind_is_examined(kind, read, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(of(kind, k))}\n" for k in range(40)))
    rows = Rows(load_task(DataConfig(path=str(path))))
    assert kind in ("pairs", "squad", "messages") or rows.task.kind == kind
    if read and kind in ("regression", "tagging", "pairs"):
        encode = whole(partial(labelled_each, rows.task), READ)
        rows = read_by(rows, bytes_tokenizer(), 30, context=30, way="classified", encode=encode)
    elif read:
        rows = read_by(rows, bytes_tokenizer(), 200, context=200)
    found = examine(rows)
    assert found.account.proved
    assert found.account.rows == 40
    assert "error" not in {finding.severity for finding in found.findings}, found.findings
    assert json.loads(json.dumps(found.told()))["account"]["proved"] is True
    assert (found.lengths is not None) == read


def test_rows_of_any_characters_are_examined(tmp_path):
    draw = random.Random(0)
    pools = [range(1, 128), range(128, 0x300), range(0x300, 0x2100), range(0xE000, 0xFFFF), range(0x1F300, 0x1F700)]
    texts = ["".join(chr(draw.choice(draw.choice(pools))) for _ in range(draw.randrange(1, 60))) for _ in range(300)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps({'text': text, 'label': draw.choice('ab')})}\n" for text in texts))
    found = examine(Rows(load_task(DataConfig(path=str(path)))))
    assert found.account.proved
    assert {"control-characters", "unseen-characters"} <= {finding.code for finding in found.findings}
    assert all(row.excerpt.isprintable() for finding in found.findings for row in finding.rows)
