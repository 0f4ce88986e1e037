"""Why some runs cannot be lanes of one batch, and have to be trained alone."""

from collections.abc import Iterable

from torch import nn

from tunewise.errors import UserError
from tunewise.methods.attach import Tuned
from tunewise.models.anatomy import Anatomy


class CannotShare(UserError):
    """Why runs cannot be lanes of one batch."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, "train these runs one after another")


def why_not_a_lane(tuned: Tuned) -> str:
    """Why this one cannot be a lane beside others; "" where it can."""
    hooks = list(tuned.method.hooks(tuned.model, tuned.anatomy, tuned.deltas, lambda: False))
    for hook in hooks:
        hook.remove()
    if hooks:
        return f"{tuned.method.name} acts on a whole stack of layers here"
    return inside_a_mixture(tuned.anatomy, tuned.deltas, tuned.selected)


def inside_a_mixture(anatomy: Anatomy, sites: Iterable[str], selected: Iterable[str]) -> str:
    """Why who acts at these sites, or trains these tensors, shares no batch with others; "" where nothing says so.

    In a mixture of experts tokens are no longer side by side.
    """
    modules = {site.name: site.module for site in anatomy.sites}
    touched = (*(modules.get(name, "") for name in sites), *selected)
    mixtures = tuple(f"{site.module}." for site in anatomy.mixtures)
    found = next((path for path in touched if mixtures and path.startswith(mixtures)), "")
    return f"{found} is inside a mixture of experts, where tokens are not side by side" if found else ""


def has_dropout(tuned: Tuned) -> bool:
    """Whether its deltas draw random numbers while they are trained."""
    modules = (module for delta in tuned.deltas.values() for module in delta.modules())
    return any(isinstance(module, nn.Dropout) and module.p > 0 for module in modules)
