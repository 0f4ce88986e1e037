"""What the planner says of a run, kept beside what the run measures, so that every run grades the planner."""

from tunewise.methods.base import Method
from tunewise.models.load import Base
from tunewise.planning import plan


def planned(base: Base, method: Method) -> dict[str, int]:
    """Trained parameters and bytes of the adapter's tensors, from the base's configuration alone."""
    (found,) = plan(base.name, [method], base.head)
    return {"n_trainable": found.n_trainable, "adapter_bytes": found.adapter_bytes}
