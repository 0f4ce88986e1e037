"""What tunewise saves, as peft reads it: the same logits, and others than the base's."""

from pathlib import Path

import peft
import torch
from torch import Tensor

from tests import bases
from tunewise.methods.attach import Tuned
from tunewise.methods.store import save_adapter

IDS = torch.tensor([[5, 9, 33, 20, 7, 41, 3], [8, 8, 60, 12, 50, 6, 11]])


def read_by_peft(tuned: Tuned, family: str, folder: Path, moved: float) -> tuple[peft.PeftModel, Tensor, Tensor]:
    """peft's model with the adapter that is saved into `folder`, its logits, and ours, with gradients to come.

    They are held to be equal, and to lie further than `moved` from those of the base.
    """
    save_adapter(tuned, folder)
    ours = bases.logits(tuned.model, IDS)
    model = peft.PeftModel.from_pretrained(bases.build(family, torch.float32), folder, is_trainable=True)
    theirs = bases.logits(model, IDS)
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)
    assert (theirs - bases.logits(bases.build(family, torch.float32), IDS)).abs().max() > moved
    return model, theirs, ours
