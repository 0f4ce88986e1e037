"""Top layers: the last K layers are trained and the trunk below them stays frozen.

Transfer learning as in Yosinski et al. 2014, arXiv:1411.1792; on transformers Lee et al. 2019, arXiv:1911.03090.
"""

from collections.abc import Iterable

from pydantic import AliasChoices, Field

from tunewise.errors import UserError
from tunewise.methods.base import Method
from tunewise.models.anatomy import Anatomy


class TopLayers(Method):
    """The last `layers` layers, and the norm behind them."""

    name = "top_layers"
    family = "selective"
    trains = "the last K layers"
    paper = "arXiv:1911.03090"
    equation = "θ_l = θ₀_l + Δθ_l for l > L − K"
    searched = {"layers": (1,)}
    learning_rate = 5e-5
    learning_rate_source = "Devlin et al. 2019, arXiv:1810.04805, appendix A.3 (2e-5 to 5e-5)"
    start = "the base's own values"

    layers: int = Field(2, ge=1, validation_alias=AliasChoices("layers", "k"))
    """How many layers, counted from the top. Default: Li & Liang 2021's baseline, as in Hu et al. 2021, section 5.1."""
    final_norm: bool = True
    """Train the norm between the last layer and the head as well.
    Default: no published value; few numbers, and they read what the last layer writes."""

    def select(self, anatomy: Anatomy) -> Iterable[str]:
        if self.layers > anatomy.n_layers:
            raise UserError(
                f"method.layers={self.layers}, but this base has {anatomy.n_layers} layers",
                hint=f"use method.layers={anatomy.n_layers} or fewer",
            )
        modules = list(anatomy.layers[-self.layers :])
        if self.final_norm:
            outside = [path for path in anatomy.norms if not path.startswith(anatomy.layers)]
            # beside the layers or above them; not that of an encoder's embeddings, nor of the stack below a decoder
            modules += [path for path in outside if anatomy.layers[-1].startswith(f"{path.rpartition('.')[0]}.")]
        prefixes = tuple(f"{path}." for path in modules)
        return [name for name in anatomy.parameters if name.startswith(prefixes)]
