"""A classifier's answers, its texts packed or padded, against each text alone through the plain model in float64."""

import copy

import pytest
import torch

from tests import bases
from tests.rows import random_rows
from tunewise.data.encode import Encoded
from tunewise.data.examples import Example, Part
from tunewise.engine.native.build import library, why_not
from tunewise.evaluation.by_head import answers_by_head
from tunewise.evaluation.questions import LabelledRows
from tunewise.models.anatomy import read_anatomy
from tunewise.models.heads import TaskHead
from tunewise.models.load import Base

LABELS = ("a", "b", "c")


@pytest.mark.skipif(library() is None, reason=f"no kernels here: {why_not()}")
@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("family", ["bert_classes", "roberta_classes", "distilbert_classes", "deberta-v2_classes"])
def test_texts_are_answered_as_each_alone(family, packing):
    exact = bases.build(family)
    model = copy.deepcopy(exact).float()
    base = Base(model, bases.Padding(), read_anatomy(model), family, "", model.dtype, TaskHead("classes", LABELS))
    rows = [
        Encoded(row.id, row.ids, (number % 3,), len(row.ids), False)
        for number, row in enumerate(random_rows(9, seed=2))
    ]
    examples = [Example(row.id, (Part(row.id, False),), LABELS[row.labels[0]], 0, (row.id,)) for row in rows]
    seen = []
    embedding = model.get_input_embeddings()
    hook = embedding.register_forward_hook(lambda module, args, out: seen.append(tuple(args[0].shape)))
    found, loss = answers_by_head(base, LabelledRows(None, tuple(examples), rows), batch_size=4, packing=packing)
    hook.remove()
    assert [n_rows for n_rows, _ in seen[-3:]] == ([1, 1, 1] if packing else [4, 4, 1])
    with torch.no_grad():
        logits = torch.cat([exact(input_ids=torch.tensor([row.ids])).logits for row in rows]).log_softmax(-1)
    expected = torch.tensor([row.labels[0] for row in rows])
    assert loss == pytest.approx(-float(logits[torch.arange(9), expected].mean()), abs=1e-5)
    for row, told, scores in zip(rows, found, logits, strict=True):
        assert (told["id"], told["prompt"], told["expected"]) == (row.id, row.id, LABELS[row.labels[0]])
        assert told["predicted"] == LABELS[int(scores.argmax())]
        assert list(told["scores"].values()) == pytest.approx(scores.tolist(), abs=2e-6)
