"""BitFit: y = W x + (b₀ + Δb). Only bias vectors are trained.  Ben Zaken et al. 2022, arXiv:2106.10199.

With `roles` it is the Δb of some linear layers alone, which the authors do with queries and the inner feed-forward
layer (section 4.3), and what peft calls BEFT.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from tunewise.errors import UserError
from tunewise.methods.base import SERVE, CannotFold, Delta, Method, PeftNames
from tunewise.models.anatomy import Anatomy
from tunewise.models.families import RECURRENT


class AddedBias(Delta):
    """Δb (1, d_out), as peft keeps it, zero at birth; on a module that may have a bias of its own or none."""

    def __init__(self, d_out: int, *, passes_over_zeros: bool = False) -> None:
        """`passes_over_zeros` where padding enters as zeros, out of which the base is to make zeros."""
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, d_out))
        self._passes_over_zeros = passes_over_zeros

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        added = self.bias[0].to(y.dtype)
        return y + added * (x != 0).any(-1, keepdim=True) if self._passes_over_zeros else y + added

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if bias is not None:
            return weight, bias + self.bias[0].detach().to(bias)
        raise CannotFold("the base has no place for the biases that bitfit added", hint=SERVE)


class BitFit(Method):
    """Every bias of the base; with `add`, also new ones where a linear layer has none; or those of some roles."""

    name = "bitfit"
    family = "selective"
    trains = "bias vectors"
    paper = "arXiv:2106.10199"
    equation = "y = W x + (b₀ + Δb)"
    learning_rate = 1e-3
    learning_rate_source = "Ben Zaken et al. 2022, arXiv:2106.10199, appendix (1e-4 to 1e-3)"
    start = "the base's own values; added ones zero, as peft's (BEFT)"

    peft = PeftNames("BEFT", {}, {"bias": "beft_bias"}, training_only=frozenset({"init_weights"}), conv1d=False)

    add: bool = False
    """Give linear layers without a bias a new one, zero at birth (bases such as llama have none)."""
    roles: tuple[str, ...] = ()
    """Only the linear layers with these roles, whether they have a bias or not; () takes every bias of the base.
    Default: Ben Zaken et al. 2022, all bias terms."""
    layers: tuple[int, ...] | None = None
    """With roles, only these layers, counted from 0, or from the end when negative."""

    def select(self, anatomy: Anatomy) -> Iterable[str]:
        if self.roles:
            return ()
        biases = [name for name in anatomy.parameters if name.endswith("bias")]  # .bias, and experts' down_proj_bias
        if not biases and not self.add:
            raise UserError(
                f"bitfit trains biases, and this {anatomy.model_type} base has 0 biases",
                hint="method.add=true adds zero-initialised ones to its linear layers",
            )
        return biases

    def deltas(self, anatomy: Anatomy) -> Mapping[str, Delta]:
        if self.roles:
            sites = anatomy.find(self.roles, self.layers)
        else:
            sites = [site for site in anatomy.find(["all"]) if self.add and not site.has_bias]
        # what enters a convolution or a recurrence in the place of padding would be heard by the tokens behind it
        mixes = anatomy.model_type in RECURRENT
        return {site.name: AddedBias(site.d_out, passes_over_zeros=mixes and site.role == "qkv") for site in sites}
