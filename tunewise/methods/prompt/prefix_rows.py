"""The learned keys and values of a prefix: at each site's virtual tokens they stand in place of the base's own."""

import torch
from torch import Tensor, nn

from tunewise.methods.base import Delta
from tunewise.methods.prompt.virtual_positions import VirtualColumns, VirtualIds


class PrefixRows(Delta):
    """`written()` (virtual_tokens, d_out) in place of the keys, or the values, of the virtual tokens."""

    def __init__(self, virtual: VirtualIds | VirtualColumns) -> None:
        super().__init__()
        self._virtual = [virtual]  # in a list, so that it is no submodule of every layer

    @property
    def virtual(self) -> VirtualIds | VirtualColumns:
        """Where the virtual tokens stand in this very forward pass."""
        return self._virtual[0]

    def written(self) -> Tensor:
        """The values as they are now."""
        raise NotImplementedError

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        rows = self.virtual.rows
        assert rows is not None, "the embedding runs before the layers"
        values = self.written().to(y.dtype).unflatten(-1, y.shape[2:])
        chosen = values[rows.clamp(min=0)]
        return torch.where((rows >= 0).view(*rows.shape, *[1] * (y.dim() - 2)), chosen, y)


class Network(nn.Module):
    """tanh(W E + b), the part of the reparametrisation that all layers share: (virtual_tokens, hidden)."""

    def __init__(self, virtual_tokens: int, d: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(virtual_tokens, d))
        self.inner = nn.Linear(d, hidden)

    def forward(self) -> Tensor:
        return torch.tanh(self.inner(self.embedding))


class LearnedRows(PrefixRows):
    """values (virtual_tokens, d_out) of the site's own, or a layer behind the network that writes them."""

    def __init__(
        self, virtual_tokens: int, d_out: int, virtual: VirtualIds | VirtualColumns, network: Network | None
    ) -> None:
        super().__init__(virtual)
        self.shared = network
        self.values = nn.Parameter(torch.zeros(virtual_tokens, d_out)) if network is None else None
        self.outer = None if network is None else nn.Linear(network.inner.out_features, d_out)

    def written(self) -> Tensor:
        if self.shared is None or self.outer is None:
            assert self.values is not None
            return self.values
        return self.outer(self.shared())

    def settle(self) -> None:
        if self.shared is not None:
            written = self.written().detach()
            self.shared = self.outer = None
            self.values = nn.Parameter(written)


class Table(nn.Module):
    """values (virtual_tokens, layers · 2 · d), as peft keeps them: keys and values of one layer behind another's."""

    def __init__(self, virtual_tokens: int, width: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(virtual_tokens, width))


class TableRows(PrefixRows):
    """The `index`-th share of a table, d_out wide."""

    def __init__(self, table: Table, index: int, d_out: int, virtual: VirtualColumns) -> None:
        super().__init__(virtual)
        self.shared = table
        self._columns = slice(index * d_out, (index + 1) * d_out)

    def written(self) -> Tensor:
        return self.shared.values[:, self._columns]
