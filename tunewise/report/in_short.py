"""A way in a few facts, as they stand beside its answers: how it was trained, how good it is, what it forgot."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tunewise.report import words
from tunewise.report.arms import Arm
from tunewise.report.decision import Decision
from tunewise.report.named import Named
from tunewise.report.page import glyph_of

UNTRAINED = "┅"
FIRST_TONE = 2
"""Of runs that no comparison put in order: the first tones are greys."""


@dataclass(frozen=True)
class InShort:
    """What is said of one who answers. `mark` and `tone`, a number, are those of the report's table."""

    mark: str = UNTRAINED
    tone: int = 0
    badge: str = ""
    """Where the verdict advises it: take this, or so far."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What it is -> the figure, in the order in which they are read."""


def in_short(named: Mapping[str, Named], decision: Decision | None = None, base: str = "base") -> dict[str, InShort]:
    """Of each by its name, and as `base` of one that trained nothing and shows nothing, which is the base itself."""
    found = {base: InShort(facts={"trained": "nothing"})}
    for number, (name, one) in enumerate(named.items()):
        arm = one.figures()
        mark, tone = glyph_of(number), number + (0 if one.arm else FIRST_TONE)
        if arm is None:
            found[name] = InShort(mark, tone)
            continue
        badge = ""
        if decision is not None and arm.label == decision.pick.label:
            badge = decision.badge
        told = InShort(mark if arm.n_trainable else UNTRAINED, tone, badge, facts_of(arm))
        found[name] = told
        if not arm.n_trainable and not arm.runs[0].method.get("shots"):
            found[base] = told
    return found


def facts_of(arm: Arm) -> dict[str, str]:
    """Its method, its main metric, what was trained and what was forgotten."""
    run = arm.middle
    shots = int(run.method.get("shots") or 0)
    shown = f", {shots} shots" if shots else ""
    trained = f"{words.count(arm.n_trainable)} parameters" if arm.n_trainable else "nothing"
    facts = {
        "method": words.spaced(str(run.method.get("name", ""))) + shown,
        words.metric_name(arm.metric): words.quality(arm.metric, arm.quality) + words.unit(arm.metric),
        "trained": trained,
    }
    if arm.adapter_bytes:
        facts["adapter"] = words.size(arm.adapter_bytes)
    if arm.forgetting is not None and arm.n_trainable:
        facts["forgot"] = f"{words.signed(arm.forgetting)} nats/token"
    if len(arm.runs) > 1 and (arm.n_trainable or shots):
        facts["seed"] = f"{run.metrics.get('seed', 0)}, the middle of {len(arm.runs)}"
    return {name: words.unbroken(told) for name, told in facts.items()}
