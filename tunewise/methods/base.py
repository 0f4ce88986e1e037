"""The protocol of every way to adapt a base: a frozen `Method` config, and the `Delta` it adds at a site.

A method is one of two verbs. `select` names tensors of the base that become trainable; `deltas` says what is added
at which site. Attaching, switching, scaling, counting, saving and folding are written once, over these two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tunewise.config import Strict
from tunewise.errors import UserError

if TYPE_CHECKING:
    from tunewise.models.anatomy import Anatomy


class CannotFold(UserError):
    """The method, or the base, has no equivalent dense weight; the message says which and why."""


class Delta(nn.Module):
    """What a method adds at one site.

    x: (..., d_in) the site's input.  y: (..., d_out) the site's frozen output.  A new delta is the identity:
    after(x, y) equals y until it has been trained. Parameters are float32 on a half-precision base; `after`
    computes in the dtype of y.
    """

    def before(self, x: Tensor) -> Tensor:
        """The input the frozen module sees instead of x; rarely needed."""
        return x

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        """The output that replaces y."""
        return y

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The dense (d_out, d_in) weight and (d_out,) bias that act as the frozen module with this delta does."""
        raise CannotFold(
            f"{type(self).__name__} has no equivalent dense weight", hint="serve it attached: tunewise.load_adapter"
        )


class Method(Strict):
    """What to train: where and what. Its fields are its whole configuration."""

    name: ClassVar[str]
    family: ClassVar[str]  # baseline | full | selective | reparametrising | additive
    trains: ClassVar[str]  # what it trains, in a few words
    paper: ClassVar[str]
    equation: ClassVar[str]
    learning_rate: ClassVar[float]  # peak, for AdamW
    learning_rate_source: ClassVar[str]

    def select(self, anatomy: Anatomy) -> Iterable[str]:
        """Names of the base's parameters that become trainable."""
        return ()

    def deltas(self, anatomy: Anatomy) -> Mapping[str, Delta]:
        """Site name -> the delta added there, freshly initialised from torch's global generator."""
        return {}

    def prefix_ids(self, anatomy: Anatomy) -> tuple[int, ...]:
        """Token ids that every sequence begins with: the virtual tokens of a soft prompt."""
        return ()

    def warm_start(
        self,
        model: PreTrainedModel,
        anatomy: Anatomy,
        deltas: Mapping[str, Delta],
        tokenizer: PreTrainedTokenizerBase | None,
    ) -> None:
        """Set starting values that depend on the base's weights or its tokenizer; runs before any hook is in place."""

    def configuration(self) -> dict[str, object]:
        """The name and every field, as plain data; `parse_method` reads it back."""
        return {"name": self.name, **self.model_dump(mode="json")}
