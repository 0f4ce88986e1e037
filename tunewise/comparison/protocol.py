"""What a comparison is: its arms, each a recipe a seed, and the protocol by which all of them are run and judged."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from pydantic import Field, field_validator

from tunewise.comparison.equality import check_alike
from tunewise.config import Strict, parse
from tunewise.errors import UserError, nearest, unknown
from tunewise.methods.base import Method
from tunewise.run import Recipe, build_recipe
from tunewise.run.estimate import ALL, every_method
from tunewise.stats import ALPHA
from tunewise.verdict import COSTS, MARGIN, Rule

logger = logging.getLogger(__name__)

Arms = Sequence[str | Mapping[str, Any] | Method] | Mapping[str, Any]
ARMS = "arms"


class Protocol(Strict):
    """What is the same for all arms beside their data: the fields of a comparison's recipe that no run has."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Runs of each arm; trials are run with the first."""
    trials: int = Field(1, ge=1)
    """Points of each arm's own fields that are tried on dev before test is opened; 1 takes the method's values."""
    allow_unlike: tuple[str, ...] = ()
    """Fields in which arms may differ although they would decide beside the method, such as head or train.steps."""
    margin: float = Field(MARGIN, ge=0)
    """How far below the best mean is as good: points of a score, or per cent of a loss."""
    alpha: float = Field(ALPHA, gt=0, lt=1)
    """How often one comparison of arms that are alike may find a difference."""
    weights: dict[str, float] = Field(default_factory=lambda: dict.fromkeys(COSTS, 1.0))
    """What each cost counts when the cheapest of equals is taken; one that is not named counts nothing."""
    against: str = ""
    """The arm that all others are held against, one difference each; without it see `Comparison.against`."""

    ignore_findings: bool = False
    """Compare although the data doctor finds errors (`tunewise data check`)."""

    @field_validator("seeds")
    @classmethod
    def _some(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if not seeds:
            raise UserError("no seeds given", "give at least one, better three: --seeds 0,1,2")
        if len(set(seeds)) < len(seeds):
            raise UserError(f"a seed is there twice: {list(seeds)}", "the same run would count twice; leave one out")
        return seeds

    def rule(self, metric: str) -> Rule:
        """By which arms are judged on this metric."""
        return Rule.of(metric, self.margin, self.alpha, self.weights)


@dataclass(frozen=True)
class Comparison:
    """Arms (label -> a recipe for each seed) that may be compared, and how."""

    protocol: Protocol
    recipes: Mapping[str, tuple[Recipe, ...]]
    unlike: Mapping[str, Mapping[str, Any]]
    """Field -> label -> value, where arms differ as `allow_unlike` allows."""

    @property
    def first(self) -> Recipe:
        return next(iter(self.recipes.values()))[0]

    @property
    def against(self) -> dict[str, str]:
        """Arm -> the arm that it is held against: the one that the protocol names, or, where it names none, of an arm
        on quantised weights the same method on plain ones, if possible with the same fields beside."""
        if self.protocol.against:
            return {label: self.protocol.against for label in self.recipes if label != self.protocol.against}
        first = {label: of_arm[0] for label, of_arm in self.recipes.items()}
        found = {}
        for label, recipe in first.items():
            plain = recipe.model_copy(update={"quantise": ""})
            alike = [other for other, its in first.items() if not its.quantise and its.method == recipe.method]
            if recipe.quantise and alike:
                found[label] = next((other for other in alike if first[other] == plain), alike[0])
        return found


def build_comparison(fields: Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> Comparison:
    """The comparison that these fields of a recipe ask for, checked.

    `arms` maps a label to the fields that are the arm's own, or is a list of methods (see `arms_of`), among which `all`
    is every method that acts on the base, at its defaults, but for those that are named too. Beside it stand
    fields of `Protocol`, and fields of a run's recipe, which all arms share; an arm's own win over those, `overrides`
    (dotted fields of either kind) over both, and dotted fields of an arm over all. UserError for what is unknown,
    wrong, or unlike between arms.
    """
    changed = dict(overrides or {})
    if "seed" in changed:
        raise UserError(f"seed={changed['seed']} would make all runs of an arm one", "name the seeds: seeds")
    own = {name: fields[name] for name in Protocol.model_fields if name in fields}
    own |= {name: changed.pop(name) for name in Protocol.model_fields if name in changed}
    protocol = parse(Protocol, own)
    protocol.rule("")  # weights of costs that there are
    shared = {name: value for name, value in fields.items() if name not in own and name not in (ARMS, "method", "seed")}
    _refuse_unknown(shared)
    arms = arms_of(fields.get(ARMS, ()))
    if arms.get(ALL) in ({"method": ALL}, {"method": {"name": ALL}}):
        arms = _every_arm(_recipe(ALL, {**shared, "method": "lora", "seed": protocol.seeds[0]}, changed)) | arms
        del arms[ALL]
    recipes = {
        label: tuple(_recipe(label, {**_merged(shared, of_arm), "seed": seed}, changed) for seed in protocol.seeds)
        for label, of_arm in arms.items()
    }
    if protocol.against and protocol.against not in recipes:
        raise unknown("arm", protocol.against, recipes)
    first = {label: of_arm[0] for label, of_arm in recipes.items()}
    if protocol.trials == 1:  # a search leaves alone what an arm states, and may part arms that begin alike
        _refuse_twins(first)
    unlike = check_alike(first, protocol.allow_unlike)
    return Comparison(protocol, recipes, unlike)


def arms_of(methods: Arms) -> dict[str, Mapping[str, Any]]:
    """Label -> recipe fields of each arm; UserError for none, and for two that would have the same label.

    A method (its name, its name and fields, or a `Method`) is an arm of its own name.
    """
    if not isinstance(methods, Mapping | Sequence):
        raise UserError(f"arms = {methods!r}: should be labels with fields, or a list", "write  arms: [lora, bitfit]")
    if isinstance(methods, Mapping):
        arms = {str(label): {"method": arm} if isinstance(arm, str) else arm for label, arm in methods.items()}
        if wrong := [label for label, arm in arms.items() if not isinstance(arm, Mapping)]:
            raise UserError(f"the arm {wrong[0]} has no fields", "write  label: {method: lora}  or  label: lora")
    else:
        arms = {}
        for method in [methods] if isinstance(methods, str) else methods:
            if not isinstance(method, str | Mapping | Method):
                raise UserError(f"arms: {method!r} is no method", "name it, as in lora, or give {name: lora, rank: 4}")
            fields = method.configuration() if isinstance(method, Method) else method
            label = fields.replace(":", " ") if isinstance(fields, str) else _label(fields)
            if label in arms:
                raise UserError(f"the method {label} is there twice", "leave one out, or change a field of it")
            arms[label] = {"method": fields}
    if not arms:
        raise UserError("no methods given", "name at least one: --methods lora,bitfit")
    return arms


def _every_arm(recipe: Recipe) -> dict[str, Mapping[str, Any]]:
    """An arm of every method that acts on the base of this recipe, at its defaults; which do not is told."""
    methods, refused = every_method(recipe)
    for name, reason in refused.items():
        logger.info("left out: %s, as %s", name, reason)
    return {method.name: {"method": method.configuration()} for method in methods}


def is_comparison(fields: Mapping[str, Any]) -> bool:
    """Whether a recipe's fields are those of a comparison, and not of one run."""
    return any(name in fields for name in (ARMS, *Protocol.model_fields))


def _recipe(label: str, fields: Mapping[str, Any], overrides: Mapping[str, Any]) -> Recipe:
    if "method" not in fields:
        raise UserError(f"the arm {label} has no method", f"write  {label}: {{method: lora}}")
    dotted = {name: value for name, value in fields.items() if "." in str(name)}
    sections = {name: value for name, value in fields.items() if name not in dotted}
    try:
        return build_recipe(sections, {**overrides, **dotted})
    except UserError as error:
        raise UserError(f"{label}: {error.message}", error.hint) from None


def _merged(shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """An arm's fields over the shared ones, inside sections too; `data: PATH` is opened first."""
    both = [
        {name: {"path": value} if name == "data" and isinstance(value, str) else value for name, value in each.items()}
        for each in (shared, own)
    ]
    merged = dict(both[0])
    for name, value in both[1].items():
        under = merged.get(name)
        merged[name] = {**under, **value} if isinstance(under, Mapping) and isinstance(value, Mapping) else value
    return merged


def _refuse_unknown(shared: Mapping[str, Any]) -> None:
    """Refuse what was meant for the comparison; what else is wrong, the recipe of a run says."""
    own = (ARMS, *Protocol.model_fields)
    for name, value in shared.items():
        guess = nearest(name, [*own, *Recipe.model_fields])
        if name not in Recipe.model_fields and guess in own:
            raise UserError(f"no field named {name} (given {value!r})", f"did you mean {guess}?")


def _refuse_twins(recipes: Mapping[str, Recipe]) -> None:
    """Refuse two arms that are the same run: their seeds would tell nothing apart."""
    for (one, mine), (other, theirs) in combinations(recipes.items(), 2):
        if mine.model_dump() == theirs.model_dump():
            raise UserError(f"the arms {one} and {other} are the same", "leave one out, or change a field of it")


def _label(fields: Mapping[str, Any]) -> str:
    rest = ", ".join(f"{name}={value}" for name, value in fields.items() if name != "name")
    return f"{fields.get('name')} ({rest})" if rest else str(fields.get("name"))
