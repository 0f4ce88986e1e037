"""Which process reloads which adapter, and that each proof comes back to its own."""

from types import SimpleNamespace

import pytest
import torch

from tunewise.training import reload
from tunewise.training.fresh import Failed
from tunewise.training.reload import prove_in_fresh_process


def proved(monkeypatch, n, at_once, device="cpu"):
    """The shares that were asked, and the value of each folder's proof."""
    shares = []

    def ask_each(each, device):
        shares.extend(len(words) - 4 for words in each)
        return [[{"tuned": float(path[-2:]) * 1e-9, "base": 0.0} for path in words[4:]] for words in each]

    monkeypatch.setattr(reload, "FRESH", SimpleNamespace(ask_each=ask_each))
    found = prove_in_fresh_process([f"seed{i:02d}" for i in range(n)], "base", torch.float32, device, at_once=at_once)
    return shares, [round(proof["value"] * 1e9) for proof in found]


@pytest.mark.parametrize(
    ("n", "at_once", "shares"), [(1, 2, [1]), (9, 2, [9]), (11, 2, [6, 5]), (23, 4, [6, 6, 6, 5]), (40, 1, [40])]
)
def test_many_are_shared_out_and_come_back_in_their_order(monkeypatch, n, at_once, shares):
    assert proved(monkeypatch, n, at_once) == (shares, list(range(n)))


def test_for_a_gpu_one_process_reads_the_base_once(monkeypatch):
    assert proved(monkeypatch, 23, 4, "cuda") == ([23], list(range(23)))


def test_where_one_process_fails_no_adapter_is_proved(monkeypatch):
    def ask_each(each, device):
        raise Failed("exit code 9")

    monkeypatch.setattr(reload, "FRESH", SimpleNamespace(ask_each=ask_each))
    found = prove_in_fresh_process(["a"] * 12, "base", torch.float32, at_once=2)
    assert [proof["passed"] for proof in found] == [False] * 12
