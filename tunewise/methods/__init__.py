"""The registry of methods, and reading one from plain data."""

from collections.abc import Mapping

from tunewise.config import in_one_word, parse
from tunewise.errors import UserError, unknown
from tunewise.methods.additive.bottleneck import BottleneckAdapter
from tunewise.methods.additive.compacter import Compacter
from tunewise.methods.additive.mam import MixAndMatch
from tunewise.methods.additive.parallel import ParallelAdapter
from tunewise.methods.base import Method
from tunewise.methods.prompt.llama_adapter import LlamaAdapter
from tunewise.methods.prompt.multitask_prompt import MultitaskPrompt
from tunewise.methods.prompt.p_tuning import PTuning
from tunewise.methods.prompt.prefix_tuning import PrefixTuning
from tunewise.methods.prompt.prompt_tuning import PromptTuning
from tunewise.methods.reparam.adalora import AdaLoRA
from tunewise.methods.reparam.dora import DoRA
from tunewise.methods.reparam.ia3 import IA3
from tunewise.methods.reparam.intrinsic import Intrinsic
from tunewise.methods.reparam.lokr import LoKr
from tunewise.methods.reparam.lora import LoRA
from tunewise.methods.reparam.oft import OFT
from tunewise.methods.reparam.vera import VeRA
from tunewise.methods.selective.bitfit import BitFit
from tunewise.methods.selective.frozen import Frozen
from tunewise.methods.selective.full import Full
from tunewise.methods.selective.head import Head
from tunewise.methods.selective.norms import Norms
from tunewise.methods.selective.sparse import Sparse
from tunewise.methods.selective.top_layers import TopLayers

_SELECTIVE = (Full, TopLayers, Head, BitFit, Norms, Sparse)
_REPARAMETRISING = (LoRA, DoRA, AdaLoRA, VeRA, IA3, LoKr, OFT, Intrinsic)
_PROMPTS = (PromptTuning, PTuning, MultitaskPrompt, PrefixTuning, LlamaAdapter)
_ADDITIVE = (BottleneckAdapter, ParallelAdapter, Compacter, *_PROMPTS, MixAndMatch)

METHODS: dict[str, type[Method]] = {
    method.name: method for method in (Frozen, *_SELECTIVE, *_REPARAMETRISING, *_ADDITIVE)
}


def parse_method(data: str | Mapping[str, object]) -> Method:
    """The method for a name, a name with fields (lora:rank=4:alpha=8), or a mapping with `name` and fields.

    Raises UserError for an unknown name or field, naming the nearest.
    """
    fields = in_one_word(data) if isinstance(data, str) else dict(data)
    name = fields.pop("name", None)
    if not isinstance(name, str):
        raise UserError("a method needs a name", hint=f"method.name=lora; known: {', '.join(METHODS)}")
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return parse(METHODS[name], fields, where="method")
