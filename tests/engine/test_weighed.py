"""How probable each token of a prompt was, against torch, and in however many passes."""

import pytest
import torch

from tests import bases
from tunewise.engine import weighed


@torch.no_grad()
@pytest.mark.parametrize("n_passes", [1, 4])
@pytest.mark.parametrize("prefix_ids", [(), (11, 12)])
def test_each_token_of_a_prompt_is_weighed_by_what_stands_before_it(monkeypatch, n_passes, prefix_ids):
    model, ids = bases.build("llama"), [1, 5, 9, 17, 33, 12, 8, 40, 41, 6, 7]
    read = []
    model.register_forward_pre_hook(lambda *_: read.append(1))
    if n_passes > 1:
        monkeypatch.setattr(weighed, "LOGITS", 3 * model.config.vocab_size)
        monkeypatch.setattr(weighed, "ROWS", 2)
    found = weighed.weigh_prompt(model, ids, 2, prefix_ids=prefix_ids)
    assert len(read) == n_passes
    assert [one.token for one in found] == ids[1:]
    for n, one in enumerate(found, start=1):
        expected = model(torch.tensor([[*prefix_ids, *ids[:n]]])).logits[0, -1].log_softmax(-1)
        assert one.log_probability == pytest.approx(float(expected[ids[n]]), abs=1e-9)
        values, best = expected.topk(2)
        assert [token for token, _ in one.best] == best.tolist()
        assert [share for _, share in one.best] == pytest.approx(values.tolist(), abs=1e-9)


def test_a_prompt_of_one_token_has_nothing_to_be_weighed_by():
    assert weighed.weigh_prompt(bases.build("llama"), [5], 2) == []
