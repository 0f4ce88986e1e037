"""A deep model thinned for a while: of layers that are alike most hand on what they are given, and a trial takes the
time of few."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from tunewise.models.anatomy import Anatomy
from tunewise.models.families import DECODER
from tunewise.models.replaced import replaced
from tunewise.planning.layers import FEW, few_of


@contextmanager
def thinned(model: PreTrainedModel, anatomy: Anatomy, alike: Sequence[range]) -> Iterator[None]:
    """Inside the block few layers of each of these ranges compute: those that a rehearsal takes.

    All do of a range in which settings differ (a window, say), where a layer returns more than a tensor, and of what is
    no decoder.
    """
    layers = [model.get_submodule(path) for path in anatomy.layers]
    with ExitStack() as stack:
        if anatomy.kind == DECODER:
            plain = _Plain()
            stack.callback(layers[0].register_forward_hook(plain.see).remove)
            for number in _idle(layers, alike):
                layer = layers[number]
                stack.enter_context(replaced(layer, "forward", partial(_hand_on, layer.forward, plain)))
        yield


class _Plain:
    """Whether layers return a tensor and no more, as the first one does, which computes."""

    def __init__(self) -> None:
        self.is_seen = False

    def see(self, module: nn.Module, args: object, output: object) -> None:
        self.is_seen = isinstance(output, Tensor)


def _idle(layers: Sequence[nn.Module], alike: Sequence[range]) -> list[int]:
    return [
        number
        for numbers in alike
        if len(few := few_of(numbers, FEW + 1)) < len(numbers)
        and len({_settings(layers[number]) for number in numbers}) == 1
        for number in numbers
        if number not in few
    ]


def _settings(layer: nn.Module) -> tuple[object, ...]:
    """All numbers and words that its modules keep, but the place of the layer itself."""
    return tuple(
        (path, name, value)
        for path, module in layer.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, int | float | str | None) and not name.startswith("layer_i")
    )


def _hand_on(own: Callable[..., Any], plain: _Plain, *args: Any, **kwargs: Any) -> Any:
    if not plain.is_seen:
        return own(*args, **kwargs)
    return args[0] if args else kwargs["hidden_states"]
