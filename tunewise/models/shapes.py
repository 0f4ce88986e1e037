"""Well-known bases by name, as shapes: their configurations without their weights, known without a network.

`shapes.json` holds, family by family, the fields that sizes and memory depend on; the others stay at transformers'
own defaults.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from tunewise.errors import nearest

FILE = Path(__file__).with_name("shapes.json")


@cache
def _fields() -> dict[str, dict[str, Any]]:
    """The fields of each shape. A family is called as its `model_type`, where it names no other."""
    families = json.loads(FILE.read_text("utf-8"))
    return {
        name: {"model_type": family, **content["every"], **own}
        for family, content in families.items()
        for name, own in content["sizes"].items()
    }


def shape_names() -> list[str]:
    """Of every shape that is known, family by family and smaller ones first."""
    return list(_fields())


def is_shape(name: str) -> bool:
    """Whether a shape is called so, in whatever case."""
    return name.casefold() in _fields()


def shape_named(name: str) -> PreTrainedConfig:
    """The configuration of a shape; KeyError where `is_shape` says no."""
    fields = dict(_fields()[name.casefold()])
    return AutoConfig.for_model(fields.pop("model_type"), **fields)


def nearest_shape(name: str) -> str:
    """The shape that a hub name or a misspelt one most likely means; "" where none is close."""
    return nearest(name.rpartition("/")[2], shape_names())
