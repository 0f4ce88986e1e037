"""Reading and writing the dense weight of any site, whatever its module stores (Linear, Conv1D, Embedding, a slice).

The weight of a site of experts is that of all of them, (n_experts, d_out, d_in), and it has no bias.

Of a quantised weight the dequantised one is handed out, and none is written.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tunewise.errors import UserError
from tunewise.models.anatomy import Site
from tunewise.models.quantise import ROUTES, cannot_write, dequantised_weight, is_quantised, scales


def bytes_at_rest(model: PreTrainedModel, beside: Iterable[Tensor] = ()) -> int:
    """Of all its parameters as they are stored, packed ones with the scales that turn them into weights, and of what is
    kept `beside` them; what several share counts once."""
    stored = (*(tensor for _, tensor in (*model.named_parameters(), *scales(model))), *beside)
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in stored}.values())


def dense_weight(model: PreTrainedModel, site: Site) -> tuple[Tensor, Tensor | None]:
    """The site's weight (d_out, d_in) and bias (d_out,) or None, as new tensors; an embedding's weight is (rows, d)."""
    weight, bias = frozen_weight(model, site)
    return weight.clone(), None if bias is None else bias.clone()


def frozen_weight(model: PreTrainedModel, site: Site) -> tuple[Tensor, Tensor | None]:
    """The same, detached and not copied (but dequantised, where it is quantised): to be read only."""
    module, weight = model.get_submodule(site.module), module_weight(model, site)
    if site.n_experts:
        return weight, None
    bias = None if isinstance(module, nn.Embedding) or module.bias is None else module.bias.detach()
    return site.read(weight, dim=0), None if bias is None else site.read(bias)


def module_weight(model: PreTrainedModel, site: Site) -> Tensor:
    """The whole weight (d_out, d_in) of the module that a site is, or is a slice of, to be read only."""
    module = model.get_submodule(site.module)
    if site.n_experts:
        return _of_experts(model, site).detach()
    if is_quantised(module):
        return dequantised_weight(module).to(model.dtype)
    module = _plain(model, site)
    return module.weight.detach().T if isinstance(module, Conv1D) else module.weight.detach()


@torch.no_grad()
def set_dense_weight(model: PreTrainedModel, site: Site, weight: Tensor, bias: Tensor | None = None) -> None:
    """Write the site's weight (d_out, d_in) and, where given, its bias (d_out,), in the module's own dtype and layout.

    Raises UserError for a bias on a module that has none, and for a quantised weight.
    """
    if site.n_experts:
        _of_experts(model, site).copy_(weight)
        return
    module = _plain(model, site)
    if bias is not None and (isinstance(module, nn.Embedding) or module.bias is None):
        raise UserError(f"{site.module} has no bias to write to", hint="keep the adapter attached instead of folding")
    stored = module.weight.T if isinstance(module, Conv1D) else module.weight
    whole = site.write(stored, weight.to(stored), dim=0)
    module.weight.copy_(whole.T if isinstance(module, Conv1D) else whole)
    if bias is not None:
        module.bias.copy_(site.write(module.bias, bias.to(module.bias)))


def _of_experts(model: nn.Module, site: Site) -> Tensor:
    stored = model.get_parameter(f"{site.module}.{site.parameter}")
    return stored.mT if site.transposed else stored


def _plain(model: nn.Module, site: Site) -> nn.Module:
    module = model.get_submodule(site.module)
    if is_quantised(module):
        raise UserError(cannot_write(site.module), hint=ROUTES)
    if not isinstance(module, nn.Linear | Conv1D | nn.Embedding) or not module.weight.is_floating_point():
        raise UserError(
            f"{site.module} is a {type(module).__name__} without a dense floating-point weight",
            hint="load the base unquantised to read or write its weights",
        )
    return module
