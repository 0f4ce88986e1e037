"""What a run forgot: the loss of its base and of its tuned model on the same held-out text."""

from tunewise.data.task import load_task
from tunewise.engine.trunk import Trunk
from tunewise.errors import UserError
from tunewise.evaluation.retention import retention_loss
from tunewise.methods.attach import Tuned
from tunewise.models.families import DECODER
from tunewise.models.load import Base
from tunewise.run.recipe import Recipe

_OF_BASES: dict[tuple[object, ...], float] = {}  # what the bases of this process score, measured once each


def forgotten(recipe: Recipe, base: Base, tuned: Tuned, trunk: Trunk | None) -> dict[str, float] | None:
    """The loss of the base, of the tuned model, and their difference; None where the recipe asks for none.

    `trunk` is what is frozen of the tuned model. UserError for a base that has no loss of a text.
    """
    spec = recipe.retention_task
    if spec is None:
        return None
    if base.head.kind != "lm" or base.anatomy.kind != DECODER:
        raise UserError(
            f"retention={spec} is a loss on text, and {base.name} with this head has none", "leave retention out"
        )
    documents = [example.text for example in load_task(spec).test]
    context, n_prefix = tuned.anatomy.context_length, len(tuned.prefix_ids)
    longest = None if context is None else context - n_prefix
    packing = recipe.train.packing
    if trunk is not None and 2 * trunk.n_layers < base.anatomy.n_layers:
        trunk = None  # filling it for one look would cost more than the look
    key = (base.fingerprint, base.dtype, str(base.model.device), longest, packing, tuple(documents))
    if key not in _OF_BASES:
        with tuned.disabled():
            _OF_BASES[key] = retention_loss(base, documents, longest=longest, packing=packing, trunk=trunk)[0]
    before = after = _OF_BASES[key]
    if tuned.n_trainable:
        after, _ = retention_loss(
            base, documents, prefix_ids=tuned.prefix_ids, longest=longest, packing=packing, trunk=trunk
        )
    return {"base": before, "tuned": after, "change": after - before}
