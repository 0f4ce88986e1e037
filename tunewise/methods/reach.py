"""What a method reaches in a base: whether it acts there at all, the tensors it names, and those it adds."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunewise.errors import UserError
from tunewise.methods.base import Delta, Method
from tunewise.models.anatomy import Anatomy, Site, read_anatomy
from tunewise.models.quantise import refuse_to_train


def anatomy_for(method: Method, model: PreTrainedModel) -> Anatomy:
    """The anatomy of `model`; UserError where the method does not act on its kind, with the reason."""
    anatomy = read_anatomy(model)
    refuse_to_act(method, anatomy)
    return anatomy


def refuse_to_act(method: Method, anatomy: Anatomy) -> None:
    """UserError where the method does not act on a base of this kind, with the reason."""
    reasons = [method.not_on[what] for what in (anatomy.kind, anatomy.model_type) if what in method.not_on]
    if reasons:
        raise UserError(
            f"{method.name} does not act on {anatomy.model_type}, of the kind {anatomy.kind}: {reasons[0]}",
            hint="tunewise methods --matrix shows what acts on what",
        )


def sites_by_name(anatomy: Anatomy) -> dict[str, Site]:
    """Every site of a base, its ends among them."""
    ends = [site for site in (anatomy.embedding, anatomy.head) if site is not None]
    return {site.name: site for site in (*anatomy.sites, *anatomy.keys, *ends)}


def added_by(deltas: Mapping[str, Delta]) -> dict[str, Tensor]:
    """Parameters and persistent buffers of all deltas by name; what is shared is there once."""
    found: dict[str, Tensor] = {}
    for site, delta in deltas.items():
        for name, tensor in delta.state_dict(keep_vars=True).items():
            found[name if name.startswith("shared.") else f"delta.{site}.{name}"] = tensor
    return found


def n_trained(added: Mapping[str, Tensor]) -> int:
    """How many values of these are trained: buffers are not."""
    return sum(tensor.numel() for tensor in added.values() if isinstance(tensor, nn.Parameter))


def selected_by(model: PreTrainedModel, method: Method, anatomy: Anatomy) -> dict[str, nn.Parameter]:
    """The base's parameters that the method names, and those of a classifier on top, in the model's own order."""
    wanted = {*method.select(anatomy), *(anatomy.task_head if method.trains_task_head else ())}
    absent = wanted - set(anatomy.parameters)
    if absent:
        raise UserError(f"this base has no parameter {sorted(absent)[0]!r}", hint="see model.named_parameters()")
    refuse_to_train(model, method.name, wanted)
    return {name: parameter for name, parameter in model.named_parameters() if name in wanted}


def delta_dtype(dtype: torch.dtype) -> torch.dtype:
    """Deltas are kept in float32 on a half-precision base, and in the base's own precision otherwise."""
    return torch.float64 if dtype == torch.float64 else torch.float32
