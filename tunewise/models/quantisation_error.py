"""What quantisation loses and saves, weight by weight: ‖W − Q‖ / ‖W‖, the largest change of an entry, and the bytes."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tunewise.models.anatomy import Anatomy
from tunewise.models.ends import EightBitEnd
from tunewise.models.quantise import dequantised_weight, packed_weights


@dataclass(frozen=True)
class WeightError:
    """One linear layer, or embedding, before (W) and after (Q) it was quantised."""

    module: str
    layer: int | None
    """None of a layer outside the stack, such as a pooler."""
    role: str
    """As in the anatomy (q, k, v, ...); of a module that is no site the end of its path."""
    shape: tuple[int, int]
    """(d_out, d_in)."""
    norm: float
    """‖W‖, in the Frobenius norm."""
    relative: float
    """‖W − Q‖ / ‖W‖; 0 for a W of zeros."""
    largest: float
    """The largest |W − Q| of an entry."""
    bytes_before: int
    bytes_after: int
    """Codes, constants and code tables, as the checkpoint holds them."""


@torch.no_grad()
def weight_errors(dense: PreTrainedModel, quantised: PreTrainedModel, anatomy: Anatomy) -> Iterator[WeightError]:
    """Each layer of `quantised` that is packed, in the order of the model, beside that of `dense`; tied ones once."""
    whole = (*anatomy.linear, *([anatomy.embedding] if anatomy.embedding else []))
    sites = {site.module: site for site in whole if not site.is_slice}
    for name, packed in packed_weights(quantised).items():
        if isinstance(packed, EightBitEnd) and not packed.is_first:
            continue
        path = name.removesuffix(".weight")
        module = dense.get_submodule(path)
        weight = (module.weight.T if isinstance(module, Conv1D) else module.weight).float()
        change = dequantised_weight(packed).to(weight) - weight
        norm = float(weight.norm())
        site = sites.get(path)
        yield WeightError(
            module=path,
            layer=anatomy.layer_of(path),
            role=".".join(path.split(".")[-2:]) if site is None else site.name.rpartition(".")[2],
            shape=(weight.shape[0], weight.shape[1]),
            norm=norm,
            relative=float(change.norm()) / norm if norm else 0.0,
            largest=float(change.abs().max()),
            bytes_before=_bytes(module.weight),
            bytes_after=packed_bytes(packed),
        )


def packed_bytes(module: nn.Module) -> int:
    """What a checkpoint holds of the weight of a packed layer; of an embedding or a head, which lie there as they were,
    what memory does."""
    if isinstance(module, EightBitEnd):
        return _bytes(module.weight) + sum(map(_bytes, module.buffers(recurse=False)))
    return sum(_bytes(tensor) for name, tensor in module.state_dict().items() if name != "bias")


def kept_dense(model: PreTrainedModel) -> dict[str, int]:
    """Modules of a quantised model whose matrix stayed as it was -> its bytes: embeddings, the head, whatever else
    transformers leaves alone. A tied one is there once."""
    packed, found = packed_weights(model), {}
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and name not in packed:
            found[name.removesuffix(".weight")] = _bytes(parameter)
    return found


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
