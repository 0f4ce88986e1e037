"""tunewise: which way of adapting this model is worth it here, what did it cost, and what did it forget?

The public names, imported when they are first used so that `import tunewise` costs nothing. Beside those of `__all__`
every method's class is one, by its own name: `tunewise.LoRA(rank=8)`.
"""

import importlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tunewise.comparison import compare, intrinsic_dimension, remedies
    from tunewise.errors import UserError
    from tunewise.methods import METHODS
    from tunewise.methods.attach import Tuned, attach, count
    from tunewise.methods.several import Adapters
    from tunewise.methods.store import load_adapter, save_adapter
    from tunewise.models.heads import TaskHead
    from tunewise.models.load import load_base
    from tunewise.publish import push
    from tunewise.run import (
        combine_adapters,
        compare_adapters,
        dial_adapter,
        evaluate,
        evaluate_with_harness,
        quantize,
        train,
    )
    from tunewise.run.estimate import plan
    from tunewise.run.showcase import showcase
    from tunewise.serve.server import serving

__version__ = "0.1.0"

_HOME = {
    "TaskHead": "tunewise.models.heads",
    "UserError": "tunewise.errors",
    "METHODS": "tunewise.methods",
    "Adapters": "tunewise.methods.several",
    "Tuned": "tunewise.methods.attach",
    "attach": "tunewise.methods.attach",
    "count": "tunewise.methods.attach",
    "load_adapter": "tunewise.methods.store",
    "save_adapter": "tunewise.methods.store",
    "load_base": "tunewise.models.load",
    "combine_adapters": "tunewise.run",
    "compare": "tunewise.comparison",
    "compare_adapters": "tunewise.run",
    "dial_adapter": "tunewise.run",
    "evaluate": "tunewise.run",
    "evaluate_with_harness": "tunewise.run",
    "intrinsic_dimension": "tunewise.comparison",
    "plan": "tunewise.run.estimate",
    "push": "tunewise.publish",
    "quantize": "tunewise.run",
    "remedies": "tunewise.comparison",
    "serving": "tunewise.serve.server",
    "showcase": "tunewise.run.showcase",
    "train": "tunewise.run",
}

__all__ = [
    "METHODS",
    "Adapters",
    "TaskHead",
    "Tuned",
    "UserError",
    "attach",
    "combine_adapters",
    "compare",
    "compare_adapters",
    "count",
    "dial_adapter",
    "evaluate",
    "evaluate_with_harness",
    "intrinsic_dimension",
    "load_adapter",
    "load_base",
    "plan",
    "push",
    "quantize",
    "remedies",
    "save_adapter",
    "serving",
    "showcase",
    "train",
]


def __getattr__(name: str) -> object:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
    elif name[:1].isupper() and name in (classes := _method_classes()):
        value = classes[name]
    else:
        raise AttributeError(f"module 'tunewise' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """What completes `tunewise.`: those names, and the methods' classes once these are imported."""
    return sorted({*__all__, "__version__", *(_method_classes() if "tunewise.methods" in sys.modules else ())})


def _method_classes() -> dict[str, object]:
    methods = importlib.import_module("tunewise.methods")
    return {method.__name__: method for method in methods.METHODS.values()}
