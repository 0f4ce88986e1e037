"""EVA, a start for LoRA's A: the directions in which the inputs of its site vary most.  Paischer et al. 2024,
arXiv:2410.07170.

A is the leading right singular vectors of the centred inputs X (tokens, d_in) over training examples, taken exactly:
the eigenvectors of Σ (x − μ)(x − μ)ᵀ, summed in float64. Every site keeps its own rank. The paper's redistribution of
ranks by explained variance is left out, which peft calls rho = 1: a method's fields alone tell its shapes here.
"""

from collections.abc import Iterable, Mapping
from itertools import accumulate, groupby, islice

import torch
from torch import Tensor, nn

from tunewise.errors import UserError
from tunewise.methods.base import Start
from tunewise.models.anatomy import Site

EXAMPLES = 128  # the training examples that are looked at, every token of them
MOMENT_BYTES = 1 << 30  # about what is summed up in one pass over the examples; the sites beyond take another


class Moments:
    """The number of inputs x of a module, Σ x (d_in,) and Σ x xᵀ (d_in, d_in)."""

    def __init__(self, module: nn.Module, d_in: int) -> None:
        device = next(module.parameters()).device
        self.n = 0
        self.sum = torch.zeros(d_in, dtype=torch.float64, device=device)
        self.products = torch.zeros(d_in, d_in, dtype=torch.float64, device=device)
        self._handle = module.register_forward_pre_hook(self._see)

    def _see(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0].detach().flatten(0, -2).double()
        self.n += len(x)
        self.sum += x.sum(0)
        self.products.addmm_(x.T, x)

    def close(self) -> None:
        """See no more."""
        self._handle.remove()

    def directions(self) -> Tensor:
        """Orthonormal rows (d_in, d_in), those of most variance first, each with its largest entry positive."""
        centred = self.products - torch.outer(self.sum, self.sum) / max(self.n, 1)
        rows = torch.linalg.eigh(centred).eigenvectors.T.flip(0)
        return rows * rows.gather(1, rows.abs().argmax(1, keepdim=True)).sign()


def start_where_inputs_vary(start: Start, starts: Mapping[Site, Tensor]) -> None:
    """Write into the A (rank, d_in) of each site the leading directions of what enters it on the first examples.

    Raises UserError without examples, and where they have fewer directions than a site has ranks.
    """
    if start.losses is None:
        raise UserError(
            "init=eva looks at training examples before it starts",
            hint="train it with `tunewise train`, give attach(..., losses=...), or use method.init=kaiming",
        )
    widths = {site.module: site.d_in for site in starts}
    filled = accumulate(8 * width**2 for width in widths.values())
    for _, share in groupby(zip(widths, filled, strict=True), key=lambda pair: pair[1] // MOMENT_BYTES):
        moments = {path: Moments(start.model.get_submodule(path), widths[path]) for path, _ in share}
        try:
            with torch.no_grad():
                for _ in islice(start.losses(), EXAMPLES):
                    pass  # the forward is what is wanted
        finally:
            for seen in moments.values():
                seen.close()
        for path, seen in moments.items():
            _write(path, seen, [(site, a) for site, a in starts.items() if site.module == path])


@torch.no_grad()
def _write(path: str, seen: Moments, starts: Iterable[tuple[Site, Tensor]]) -> None:
    """The leading rows into every A at one module."""
    rows = seen.directions()
    for site, a in starts:
        n_directions = min(site.d_in, max(seen.n - 1, 0))
        if len(a) > n_directions:
            raise UserError(
                f"the inputs of {path} vary in {n_directions} directions at most ({seen.n} tokens of width "
                f"{site.d_in}), method.rank={len(a)} wants more",
                hint="lower method.rank, give more training examples, or use method.init=kaiming",
            )
        a.copy_(rows[: len(a)])
