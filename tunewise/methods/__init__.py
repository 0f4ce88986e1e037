"""The registry of methods, and reading one from plain data."""

from collections.abc import Mapping

from tunewise.config import parse
from tunewise.errors import UserError, unknown
from tunewise.methods.additive.bottleneck import BottleneckAdapter
from tunewise.methods.base import Method
from tunewise.methods.prompt.prompt_tuning import PromptTuning
from tunewise.methods.reparam.lora import LoRA
from tunewise.methods.selective.bitfit import BitFit
from tunewise.methods.selective.frozen import Frozen
from tunewise.methods.selective.full import Full
from tunewise.methods.selective.top_layers import TopLayers

METHODS: dict[str, type[Method]] = {
    method.name: method for method in (Frozen, Full, TopLayers, BitFit, LoRA, BottleneckAdapter, PromptTuning)
}


def parse_method(data: str | Mapping[str, object]) -> Method:
    """The method for a name, or for a mapping with `name` and fields.

    Raises UserError for an unknown name or field, naming the nearest.
    """
    fields = {"name": data} if isinstance(data, str) else dict(data)
    name = fields.pop("name", None)
    if not isinstance(name, str):
        raise UserError("a method needs a name", hint=f"method.name=lora; known: {', '.join(METHODS)}")
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return parse(METHODS[name], fields, where="method")
