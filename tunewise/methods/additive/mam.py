"""Mix-And-Match: a short prefix in the attention of each layer, a scaled parallel adapter beside its feed-forward part.

He et al. 2022, "Towards a Unified View of Parameter-Efficient Transfer Learning", arXiv:2110.04366, section 4.6: their
best design, prefix tuning with l = 30 and parallel adapters of width 512 and s = 4. Nothing but the sum of the two.
"""

from collections.abc import Callable, Iterable, Mapping

from pydantic import AliasChoices, Field
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from tunewise.methods.additive.parallel import ParallelAdapter
from tunewise.methods.base import Delta, Method, Start
from tunewise.methods.prompt.prefix_tuning import PrefixTuning
from tunewise.methods.prompt.virtual_tokens import NO_PREFIX
from tunewise.models.anatomy import Anatomy


class MixAndMatch(Method):
    """`prefix_tuning` and `parallel` together."""

    name = "mam"
    family = "additive"
    trains = "a prefix, and perceptrons beside each feed-forward part"
    paper = "arXiv:2110.04366"
    equation = "softmax(q [P_k; K]ᵀ) [P_v; V],  y + s (W_up f(W_down x + b_down) + b_up)"
    searched = {"bottleneck": (64, 16)}
    learning_rate = 5e-5
    learning_rate_source = "He et al. 2022, arXiv:2110.04366, appendix A.2 (5e-5)"
    start = "its parts', prefix_tuning and parallel; He et al. 2022 write the prefix with a network"
    not_on = NO_PREFIX

    virtual_tokens: int = Field(30, ge=1, validation_alias=AliasChoices("virtual_tokens", "num_virtual_tokens"))
    """Length of the prefix. Default: He et al. 2022, section 4.6 and the authors' run_xsum.sh."""
    bottleneck: int = Field(512, ge=1)
    """Width of the adapters. Default: He et al. 2022, section 4.6 and the authors' run_xsum.sh."""
    scale: float = Field(4.0, gt=0)
    """The factor s of the adapters. Default: He et al. 2022, section 4.6 and the authors' run_xsum.sh."""

    @property
    def parts(self) -> tuple[PrefixTuning, ParallelAdapter]:
        """The two methods it is the sum of."""
        return (
            PrefixTuning(virtual_tokens=self.virtual_tokens),
            ParallelAdapter(bottleneck=self.bottleneck, scale=self.scale),
        )

    def prefix_ids(self, anatomy: Anatomy) -> tuple[int, ...]:
        return self.parts[0].prefix_ids(anatomy)

    def virtual_positions(self, anatomy: Anatomy) -> int:
        return self.parts[0].virtual_positions(anatomy)

    def deltas(self, anatomy: Anatomy) -> Mapping[str, Delta]:
        return {name: delta for part in self.parts for name, delta in part.deltas(anatomy).items()}

    def hooks(
        self, model: PreTrainedModel, anatomy: Anatomy, deltas: Mapping[str, Delta], is_on: Callable[[], bool]
    ) -> Iterable[RemovableHandle]:
        return self.parts[0].hooks(model, anatomy, deltas, is_on)

    def warm_start(self, start: Start, deltas: Mapping[str, Delta]) -> None:
        self.parts[0].warm_start(start, deltas)
