"""How often each source of a mixture would be drawn by a whole run of a recipe, before anything is trained."""

from typing import Any

from tunewise.errors import UserError
from tunewise.run.prepare import drawn, load_for
from tunewise.run.recipe import Recipe
from tunewise.run.training_rows import training_rows


def mixing_table(recipe: Recipe) -> list[dict[str, Any]]:
    """As `TrainingRows.table`, which a run of this recipe writes into its ledger; UserError for rows of one source."""
    base, task = load_for(recipe.data, recipe.model, recipe.dtype, recipe.head, recipe.quantise)
    longest = base.anatomy.context_length if base.head.kind == "lm" else base.longest
    max_length = min(recipe.train.max_length, longest or recipe.train.max_length)
    found = training_rows(base, drawn(task, recipe), max_length).table(recipe.train, recipe.seed)
    if not found:
        raise UserError(
            f"{recipe.data.path} is one source, all of which is drawn", "name a mixture: a yaml file with sources"
        )
    return found
