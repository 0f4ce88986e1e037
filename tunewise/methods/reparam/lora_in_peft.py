"""LoRA in peft's format: the names of its parts, and ranks and alphas as a default with patterns of exceptions."""

import math
from collections.abc import Mapping

from tunewise.errors import UserError
from tunewise.methods.base import PeftNames
from tunewise.methods.exceptions import from_peft_pattern, to_peft_pattern
from tunewise.models.anatomy import Anatomy

FIELDS = {"rslora": "use_rslora", "dropout": "lora_dropout"}
TENSORS = {"lora_A": "lora_A.weight", "lora_B": "lora_B.weight"}
TRAINING_ONLY = frozenset({"init_lora_weights", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "eva_config"})


def names(*, use_dora: bool) -> PeftNames:
    """LoRA's names in peft, or DoRA's."""
    magnitude = {"magnitude": "lora_magnitude_vector"} if use_dora else {}
    constants = {"use_dora": use_dora, "bias": "none"}
    return PeftNames("LORA", FIELDS, {**TENSORS, **magnitude}, constants, training_only=TRAINING_ONLY)


def written(ranks: Mapping[str, int], scalings: Mapping[str, float], *, rslora: bool) -> dict[str, object]:
    """peft's fields for the rank, and for what B A is multiplied by, at each module path."""
    alphas = {path: _whole(scalings[path] * (math.sqrt(rank) if rslora else rank)) for path, rank in ranks.items()}
    return {
        **to_peft_pattern(ranks, "r", "rank_pattern"),
        **to_peft_pattern(alphas, "lora_alpha", "alpha_pattern"),
    }


def read(config: Mapping[str, object], anatomy: Anatomy) -> dict[str, object]:
    """Our `rank` and `alpha`; raises UserError for a start that took something off the base, which would be missing."""
    start = config.get("init_lora_weights", True)
    if start not in (True, False, "gaussian", "eva"):
        raise UserError(
            f"init_lora_weights={start!r} changes the base's weights too",
            hint="convert it in peft first: save_pretrained(..., path_initial_model_for_weight_conversion=...)",
        )
    return {
        "rank": from_peft_pattern(config, "r", "rank_pattern", anatomy),
        "alpha": from_peft_pattern(config, "lora_alpha", "alpha_pattern", anatomy),
    }


def _whole(alpha: float) -> float:
    """As peft writes it: an integer where it is one, but for rounding."""
    return round(alpha) if abs(alpha - round(alpha)) < 1e-9 else alpha
