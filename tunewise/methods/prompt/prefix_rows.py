"""The learned keys and values of a prefix: at each site's virtual tokens they stand in place of the base's own."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tunewise.methods.base import Delta
from tunewise.methods.prompt.virtual_positions import VirtualColumns, VirtualIds, in_place_of
from tunewise.models.anatomy import Anatomy, Site
from tunewise.models.families import DECODER


def keys_values(anatomy: Anatomy) -> Sequence[Site]:
    """Where keys and values are final, but for the rotation of the keys; in a decoder over an encoder there are two."""
    return [*anatomy.keys, *anatomy.find(["v"])] if anatomy.kind == DECODER else anatomy.find(["k", "v"])


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
        return in_place_of(y, self.written(), rows)


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


def rows_of_one_table(virtual_tokens: int, anatomy: Anatomy) -> dict[str, Delta]:
    """In an encoder-decoder, as peft reads its table of the encoder's depth L: layer l of the decoder has the rows of
    2 l mod L, in its attention to itself."""
    encoder, decoder = anatomy.stacks
    sites = [site for site in anatomy.find(["k", "v"], decoder) if not site.is_cross]
    table = Table(virtual_tokens, len(encoder) * 2 * sites[0].d_out)
    own = VirtualColumns(virtual_tokens)
    found: dict[str, Delta] = {}
    for site in sites:
        layer = 2 * decoder.index(site.layer) % len(encoder)
        found[site.name] = TableRows(table, 2 * layer + (site.role == "v"), site.d_out, own)
    return found
