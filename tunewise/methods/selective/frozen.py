"""Frozen: θ = θ₀. Nothing is trained; k demonstrations in the prompt make it in-context learning.

Brown et al. 2020, "Language Models are Few-Shot Learners", arXiv:2005.14165.
"""

from pydantic import Field

from tunewise.methods.base import Method


class Frozen(Method):
    """The base as it is, with `shots` demonstrations before every question."""

    name = "frozen"
    family = "baseline"
    trains = "nothing"
    paper = "arXiv:2005.14165"
    equation = "θ = θ₀"
    learning_rate = 0.0
    learning_rate_source = "nothing is trained"
    start = "the base's own values"
    trains_task_head = False
    searched = {"shots": (4, 8, 16)}

    shots: int = Field(0, ge=0)
    """Demonstrations drawn from the training split, by seed. Default: none, zero-shot; Brown et al. 2020, section 2."""

    @classmethod
    def search_space(cls, *, writes: bool = True) -> dict[str, list[object]]:
        return super().search_space() if writes else {}  # a classifier reads no demonstrations
