"""Full fine-tuning: θ = θ₀ + Δθ, every parameter of the base."""

from collections.abc import Iterable

from tunewise.methods.base import Method
from tunewise.models.anatomy import Anatomy


class Full(Method):
    """Every parameter of the base is trained."""

    name = "full"
    family = "full"
    trains = "every parameter"
    paper = "arXiv:1801.06146"
    equation = "θ = θ₀ + Δθ"
    learning_rate = 2e-5
    learning_rate_source = "Devlin et al. 2019, arXiv:1810.04805, appendix A.3 (2e-5 to 5e-5)"
    start = "the base's own values"

    def select(self, anatomy: Anatomy) -> Iterable[str]:
        return anatomy.parameters
