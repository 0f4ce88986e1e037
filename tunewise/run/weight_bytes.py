"""What the weights of a tuned model take, counted off its tensors: of its base, and of what the method adds."""

from collections.abc import Iterator

from torch import Tensor

from tunewise.methods.attach import Tuned
from tunewise.models.quantise import scales


def weight_bytes(tuned: Tuned) -> int:
    """Packed weights as they are packed, with their scales; memory that several tensors share counts once."""

    sizes = {}
    for tensor in _tensors(tuned):
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values())


def _tensors(tuned: Tuned) -> Iterator[Tensor]:
    for module in (tuned.model, *tuned.deltas.values()):
        yield from module.parameters()
        yield from module.buffers()
    yield from (scale for _, scale in scales(tuned.model))
    yield from (tuned.original(name) for name in tuned.selected)
