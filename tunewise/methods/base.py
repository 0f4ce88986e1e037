"""The protocol of every way to adapt a base: a frozen `Method` config, and the `Delta` it adds at a site.

A method is one of two verbs. `select` names tensors of the base that become trainable; `deltas` says what is added
at which site. Attaching, switching, scaling, counting, saving and folding are written once, over these two.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import ModelWrapValidatorHandler, ValidationError, ValidationInfo, field_validator, model_validator
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tunewise.config import Strict, in_words
from tunewise.errors import UserError

if TYPE_CHECKING:
    from tunewise.models.anatomy import Anatomy


# A frozen site's weight (d_out, d_in) and bias (d_out,) or None, read anew at each call and not copied.
FrozenWeight = Callable[[], tuple[Tensor, Tensor | None]]

# What peft's keys begin with: behind a tuner, and beside a prompt.
PREFIX, BARE_PREFIX = "base_model.model.", "base_model."


SERVE = "serve it attached: tunewise.load_adapter"


class CannotFold(UserError):
    """The method, or the base, has no equivalent dense weight; the message says which and why."""


class Delta(nn.Module):
    """What a method adds at one site.

    x: (..., d_in) the site's input.  y: (..., d_out) the site's frozen output.  A new delta is the identity:
    after(x, y) equals y until it has been trained. Parameters are float32 on a half-precision base; `after`
    computes in the dtype of y. Parameters are trained and buffers are not; both are saved, unless a buffer is not
    persistent. A submodule called `shared` is one object in all deltas of a method, and its tensors count once.
    """

    def bind(self, weight: FrozenWeight) -> None:
        """Receive the frozen weight of the site, for equations that need more than x and y; called at attach."""

    def take_shapes(self, state: Mapping[str, Tensor]) -> None:
        """Make room for tensors that are about to be loaded, where the method's fields do not tell their shapes."""

    def before(self, x: Tensor) -> Tensor:
        """The input the frozen module sees instead of x; for a delta that has this, `after` changes nothing, but where
        x are token ids."""
        return x

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        """The output that replaces y."""
        return y

    def stack_key(self) -> Hashable:
        """Deltas of different lanes whose keys are equal can be computed by one `stacked`; None never can."""
        return None

    @staticmethod
    def stacked(deltas: Sequence[Any], x: Tensor, y: Tensor) -> Tensor:
        """`after` of n deltas of one `stack_key` on parts of one size: (n, length, d_out) from x (n, length, d_in)."""
        raise NotImplementedError

    def settle(self) -> None:
        """Replace what wrote a tensor while training (an encoder of prompts, say) by the tensor it wrote."""

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The dense (d_out, d_in) weight and (d_out,) bias that act as the frozen module with this delta does."""
        raise CannotFold(f"{type(self).__name__} has no equivalent dense weight", hint=SERVE)


class WeightChange(Delta):
    """A delta that is a ΔW (d_out, d_in) of the frozen weight: y + ΔW x.

    At a site of experts, whose x and y nobody sees, ΔW (n_experts, d_out, d_in) acts by `moved` alone.
    """

    def weight_change(self) -> Tensor:
        """ΔW as it is now."""
        raise NotImplementedError

    def moved(self, weight: Tensor) -> Tensor:
        """W + ΔW, in the dtype of W."""
        return weight + self.weight_change().to(weight.dtype)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return y + functional.linear(x, self.weight_change().to(x.dtype))

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return weight + self.weight_change().detach().to(weight), bias


@dataclass(frozen=True)
class Start:
    """What a method may look at before it is trained."""

    model: PreTrainedModel
    anatomy: Anatomy
    tokenizer: PreTrainedTokenizerBase | None
    losses: Callable[[], Iterable[Tensor]] | None
    """The base's loss on one training example after another, 0-d tensors made as they are asked for."""


@dataclass(frozen=True)
class PeftNames:
    """How Hugging Face PEFT writes a method: its `peft_type`, its fields, and the keys of its tensors."""

    peft_type: str
    fields: Mapping[str, str]
    """Our field -> peft's, of the same value."""
    tensors: Mapping[str, str]
    """A delta's tensor -> the end of peft's key, behind the path of the module (or the whole key, where `bare`)."""
    constants: Mapping[str, object] = field(default_factory=dict)
    """Fields that must have this value for an adapter to be this method's."""
    training_only: frozenset[str] = frozenset()
    """Fields of peft's that decide how an adapter is trained and not what it computes; they are not read."""
    bare: bool = False
    conv1d: bool = True
    """Whether peft has it on the transposed layers of gpt2 (and its field fan_in_fan_out)."""
    converted: bool = False
    """Whether `to_peft_tensors` and `from_peft_tensors` do the work instead of `tensors`."""
    selected: str = ""
    """For a method that trains tensors of the base: what peft puts before the last part of their names."""


class Method(Strict):
    """What to train: where and what. Its fields are its whole configuration.

    What stands below a field is its description; the last sentence, "Default: ...", names the source of its value.
    """

    name: ClassVar[str]
    family: ClassVar[str]  # baseline | full | selective | reparametrising | additive
    trains: ClassVar[str]  # what it trains, in a few words
    paper: ClassVar[str]
    equation: ClassVar[str]
    learning_rate: ClassVar[float]  # peak, for AdamW
    learning_rate_source: ClassVar[str]
    start: ClassVar[str]  # how the trained tensors begin, and the source of that
    peft: ClassVar[PeftNames | None] = None  # how peft writes it, where peft has it
    not_on: ClassVar[Mapping[str, str]] = {}  # kind (families.KINDS) or model_type -> why the method does not act on it
    on_experts: ClassVar[bool] = False  # whether it acts on the fused weights of experts
    trains_task_head: ClassVar[bool] = True  # whether a classifier on top, where there is one, is trained along
    searched: ClassVar[Mapping[str, Sequence[object]]] = {}  # field -> values worth trying beside its default
    rate_factors: ClassVar[Sequence[float]] = (1, 4, 16, 64, 1 / 4, 2, 8, 1 / 16)  # of its learning rate, for a search

    @field_validator("roles", mode="before", check_fields=False)
    @classmethod
    def _one_role_or_group(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @classmethod
    def search_space(cls, *, writes: bool = True) -> dict[str, list[object]]:
        """Dotted field of a recipe -> what a search tries, in the order in which it does; each begins at its default.

        The learning rate comes first, and upwards first: a published one is that of a larger base, and a smaller one
        wants up to a hundred times as much. `writes` tells whether the base answers in words.
        """
        rates: list[object] = [cls.learning_rate * factor for factor in cls.rate_factors] if cls.learning_rate else []
        own = {name: cls.model_fields[name].default for name in cls.searched}
        others = {name: [own[name], *(v for v in cls.searched[name] if v != own[name])] for name in own}
        named = {f"method.{name}": values for name, values in others.items()}
        return {**({"train.learning_rate": rates} if rates else {}), **named}

    def select(self, anatomy: Anatomy) -> Iterable[str]:
        """Names of the base's parameters that become trainable."""
        return ()

    def deltas(self, anatomy: Anatomy) -> Mapping[str, Delta]:
        """Site name -> the delta added there, freshly initialised from torch's global generator."""
        return {}

    def prefix_ids(self, anatomy: Anatomy) -> tuple[int, ...]:
        """Token ids that every sequence begins with: the virtual tokens of a soft prompt."""
        return ()

    def virtual_positions(self, anatomy: Anatomy) -> int:
        """Places that it takes up before every sequence, as ids or inside the stacks."""
        return len(self.prefix_ids(anatomy))

    def hooks(
        self, model: PreTrainedModel, anatomy: Anatomy, deltas: Mapping[str, Delta], is_on: Callable[[], bool]
    ) -> Iterable[RemovableHandle]:
        """Hooks on modules that are no sites, where a method needs them; they change nothing unless `is_on()`."""
        return ()

    def warm_start(self, start: Start, deltas: Mapping[str, Delta]) -> None:
        """Set starting values that depend on the base, its tokenizer or examples; runs before any hook is in place."""

    def learning_rate_factor(self, tensor: str) -> float:
        """What the learning rate of a trained tensor is multiplied by; `tensor` is its name in `Tuned.trainable`."""
        return 1.0

    def penalty(self, deltas: Mapping[str, Delta]) -> Tensor | None:
        """A 0-d term added to the loss of every step, or None."""
        return None

    def after_step(self, deltas: Mapping[str, Delta], step: int, n_steps: int) -> None:
        """Called behind the optimiser's update of `step` (from 1), with the gradients still in place."""

    def peft_fields(self, anatomy: Anatomy, targets: Sequence[str]) -> dict[str, object]:
        """Fields of peft's configuration beside those of `peft`; `targets` is its target_modules."""
        return {}

    @classmethod
    def from_peft_fields(
        cls, config: Mapping[str, object], tensors: Mapping[str, Tensor], anatomy: Anatomy
    ) -> dict[str, object]:
        """Fields of ours that peft's configuration or tensors tell, beside those of `peft`."""
        return {}

    @classmethod
    def completed(cls, config: Mapping[str, object], tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """peft's tensors with the parts put back that its configuration says were left out of the file."""
        return tensors

    def to_peft_tensors(
        self, state: Mapping[str, Tensor], model: PreTrainedModel, anatomy: Anatomy
    ) -> dict[str, Tensor]:
        """peft's tensors for our settled state, where they are no others of ours under other names.

        `model` carries this method. None where peft has no such adapter.
        """
        return {}

    def from_peft_tensors(
        self, tensors: Mapping[str, Tensor], model: PreTrainedModel, anatomy: Anatomy
    ) -> dict[str, Tensor]:
        """Our settled state for tensors that peft wrote, for such a method; `model` carries nothing."""
        return {}

    def at_scale(self, scale: float) -> Method | None:
        """The method that at λ = 1 makes of the same tensors what this one makes at λ = `scale`; None for most."""
        return None

    @model_validator(mode="wrap")
    @classmethod
    def _told_in_words(cls, data: Any, check: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        """LoRA(rnak=4) is bad input like any other: a UserError, in words."""
        if info.context:
            return check(data)
        try:
            return check(data)
        except ValidationError as error:
            raise in_words(cls, error, cls.__name__) from None

    def configuration(self) -> dict[str, object]:
        """The name and every field, as plain data; `parse_method` reads it back."""
        return {"name": self.name, **self.model_dump(mode="json")}
