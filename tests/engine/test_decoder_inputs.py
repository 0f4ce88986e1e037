"""What a decoder is given while it learns, against what transformers gives it for the same labels."""

import pytest
import torch

from tests import bases, more_bases
from tunewise.engine.batches import IGNORED
from tunewise.engine.decoder_inputs import SHIFT, decoder_inputs

LABELS = torch.tensor([[5, 9, 33, 2], [8, 2, IGNORED, IGNORED]])


@pytest.mark.parametrize("name", ["t5", "bart", *more_bases.PAIRS])
def test_labels_are_told_one_place_later(name):
    model = bases.build(name) if name in bases.CONFIGS else more_bases.build(name)
    ids = torch.tensor([[7, 11, 6], [9, 12, 2]])
    entered = decoder_inputs(model, LABELS)
    told = entered[:, 1:]
    assert torch.equal(told[LABELS[:, :-1] != IGNORED], LABELS[:, :-1][LABELS[:, :-1] != IGNORED])
    with torch.no_grad():
        theirs = model(input_ids=ids, labels=LABELS).logits
        torch.testing.assert_close(model(input_ids=ids, decoder_input_ids=entered).logits, theirs)


def test_some_families_have_no_shift_of_their_own():
    shifted = set()
    for name in more_bases.PAIRS:
        kinds = type(more_bases.build(name)).__mro__
        shifted.add(any(SHIFT in vars(kind) for kind in kinds))
    assert shifted == {True, False}
