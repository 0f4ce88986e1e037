"""Norm tuning: gains (and biases) of LayerNorm or RMSNorm alone.  Zhao et al. 2023, arXiv:2312.11420.

LN(x) = γ ∘ (x − μ) / σ + β with γ, β trained; on attention models first by Lu et al. 2021, arXiv:2103.05247.
"""

from collections.abc import Iterable

from tunewise.errors import UserError
from tunewise.methods.base import Method, PeftNames
from tunewise.models.anatomy import Anatomy


class Norms(Method):
    """The gain, and the bias where there is one, of every norm of the base."""

    name = "norms"
    family = "selective"
    trains = "gains and biases of the norms"
    paper = "arXiv:2312.11420"
    equation = "γ ∘ (x − μ) / σ + β"
    learning_rate = 1e-3
    learning_rate_source = "Lu et al. 2021, arXiv:2103.05247, the authors' script for GPT-2 (1e-3)"
    start = "the base's own values"
    peft = PeftNames("LN_TUNING", fields={}, tensors={}, selected="ln_tuning_layers")

    final: bool = True
    """Train the norm behind the last layer as well. Default: peft's for llama and gpt2."""

    def select(self, anatomy: Anatomy) -> Iterable[str]:
        norms = [path for path in anatomy.norms if self.final or path.startswith(anatomy.layers)]
        prefixes = tuple(f"{path}." for path in norms)
        selected = [name for name in anatomy.parameters if name.startswith(prefixes)] if prefixes else []
        if not selected:
            raise UserError(
                f"norms trains gains and biases, and this {anatomy.model_type} base has none", hint="method=bitfit"
            )
        return selected
