"""What of a recipe makes it this run and no other, and the digest of it that names the run's folder."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def identity(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a recipe, told to nobody: who follows a run changes nothing about it."""
    train = recipe.get("train")
    if not (isinstance(train, Mapping) and "report_to" in train):
        return dict(recipe)
    return {**recipe, "train": {**train, "report_to": []}}


def digest_of_arm(recipe: Mapping[str, Any]) -> str:
    """Eight characters that stand for all runs of this recipe, which differ by their seeds."""
    content = {name: value for name, value in identity(recipe).items() if name != "seed"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
