"""The verdict in words: which arm to take and why, from the arms of a comparison."""

from collections.abc import Sequence
from dataclasses import dataclass

from tunewise.directions import LOWER_IS_BETTER
from tunewise.report import words
from tunewise.report.arms import Arm
from tunewise.report.break_even import paid_back
from tunewise.report.folders import majority_score
from tunewise.verdict import Pair, Rule, Verdict, contender, judge

WORTH_SAYING = 1.2  # a cost that is less by a fifth or more
FEW = 4  # names that are read one by one


@dataclass(frozen=True)
class Decision:
    """A verdict and its sentences."""

    headline: str
    reason: str
    pick: Arm
    best: Arm
    verdict: Verdict
    learnt: bool = True
    """Whether the best mean is better than one answer to everything; where it is not, `pick` is not advised."""

    @property
    def takes(self) -> bool:
        """Whether `pick` is advised; until all is settled, by more than one seed, it is the one to take so far."""
        return self.learnt and _is_settled(self.verdict)

    @property
    def badge(self) -> str:
        """What stands beside `pick`."""
        return "take this" if self.takes else "so far" if self.learnt else ""


def decide(arms: Sequence[Arm], rule: Rule | None = None) -> Decision:
    """The verdict of `judge` over these arms; the rule's direction is the metric's.

    Arms of which seeds diverged are left out, where there are others.
    """
    arms = [arm for arm in arms if not arm.n_diverged] or arms
    metric = arms[0].metric
    rule = rule or Rule.of(metric)
    verdict = judge([contender(arm.label, metric, [run.metrics for run in arm.runs]) for arm in arms], rule)
    by_label = {arm.label: arm for arm in arms}
    pick, best = by_label[verdict.pick], by_label[verdict.best]
    most = majority_score(best.middle.predictions()) if metric == "accuracy" else None
    if most is not None and best.quality.mean <= most:
        headline = f"Take none yet: no way is better than always giving the most frequent answer, {most:.1f} %."
        reasons = [
            f"{best.label} has the best mean, {_score(best)}: none has learnt the task. "
            "More rows, more steps or other learning rates are worth a try first.",
            *_power(verdict, rule, metric),
        ]
        return Decision(headline, " ".join(reasons), pick, best, verdict, learnt=False)
    reasons = [*_unproved(pick), *_hardly_learnt(best, most), *_reasons(by_label, verdict, rule)]
    return Decision(_headline(pick, verdict), " ".join([*reasons, *paid_back(arms, pick)]), pick, best, verdict)


def best_of(arms: Sequence[Arm]) -> Arm:
    """The arm with the best mean."""
    sign = -1 if arms[0].metric in LOWER_IS_BETTER else 1
    return max(arms, key=lambda arm: sign * arm.quality.mean)


def _is_settled(verdict: Verdict) -> bool:
    return verdict.settled and (verdict.n_seeds > 1 or not verdict.pairs)


def _score(arm: Arm) -> str:
    return f"{words.metric_name(arm.metric)} {words.quality(arm.metric, arm.quality)}{words.unit(arm.metric)}"


def _headline(pick: Arm, verdict: Verdict) -> str:
    trained = f"{words.count(pick.n_trainable)} trained parameters" if pick.n_trainable else "nothing trained"
    if not _is_settled(verdict):
        seeds = "one seed" if verdict.n_seeds == 1 else f"{verdict.n_seeds} seeds"
        return f"Not settled by {seeds}; so far take {pick.label}: {_score(pick)} with {trained}."
    return f"Take {pick.label}: {_score(pick)} with {trained}."


def _unproved(pick: Arm) -> list[str]:
    """A warning where what is to be taken has not proved itself."""
    failed = {name: None for run in pick.runs for name, proof in run.proofs().items() if not proof.get("passed")}
    if not failed:
        return []
    told = words.listing([words.spaced(name) for name in failed])
    return [f"But proofs of {pick.label} failed ({told}): do not rely on it before you know why."]


def _hardly_learnt(best: Arm, most: float | None) -> list[str]:
    """A warning where the seeds of the best mean scatter down to one answer to everything."""
    if most is None or len(best.runs) < 2 or best.quality.mean - best.quality.half_width > most:
        return []
    return [
        f"But the interval of {best.label} reaches down to the {most:.1f} % of always giving the most frequent answer."
    ]


def _reasons(arms: dict[str, Arm], verdict: Verdict, rule: Rule) -> list[str]:
    best, pick = arms[verdict.best], arms[verdict.pick]
    if verdict.n_seeds < 2:
        return ["One seed a method: the order may be chance. Run three or more seeds before you rely on it."]
    near = f"{rule.margin:g} %" if rule.lower_is_better else f"{rule.margin:g} points"
    sentences = []
    if verdict.equal:
        equal = [label for label in (verdict.best, *verdict.equal) if label != verdict.pick]
        are_all = len(equal) > FEW and len(equal) == len(arms) - 1
        told = "all others" if are_all else words.listing(equal)
        sentences.append(f"As good, within {near} of the best mean: {told}. {_shown(verdict)}")
        sentences += _bargain(pick, best)
    if verdict.worse:
        told = [_gap(verdict.pair(label, verdict.best), label, best.metric) for label in verdict.worse]
        sentences.append(f"Reliably worse than {verdict.best}: {words.listing(told)}.")
    if verdict.open:
        told = [_gap(verdict.pair(label, verdict.best), label, best.metric) for label in verdict.open]
        more = f"; about {verdict.seeds_needed} seeds an arm would tell" if verdict.seeds_needed else ""
        sentences.append(f"Not settled, as seeds scatter too widely: {words.listing(told)}{more}.")
    return [*sentences, *_power(verdict, rule, best.metric)]


def _power(verdict: Verdict, rule: Rule, metric: str) -> list[str]:
    """What gaps so few seeds could have seen."""
    n_pairs = len(verdict.pairs)
    if not n_pairs or verdict.n_seeds < 2:
        return []
    scale = "" if rule.lower_is_better else " points"
    corrected = f", Holm over {n_pairs} pairs" if n_pairs > 1 else ""
    return [
        f"{verdict.n_seeds} seeds could only have seen gaps of {_number(verdict.detectable, metric)}{scale} or more "
        f"between arms that scatter as most do here (Welch's t{corrected}; 80 % power)."
    ]


def _shown(verdict: Verdict) -> str:
    """Of which of its equals the seeds show that they lie within the margin of the best, as their means do."""
    is_shown = {label: verdict.pair(label, verdict.best).p_equivalent < verdict.alpha for label in verdict.equal}
    shown, rest = ([label for label in verdict.equal if is_shown[label] == which] for which in (True, False))
    if len(shown) > FEW and len(rest) < len(shown):
        left = f" but {words.listing(rest)}, of which so few seeds leave it open" if rest else ""
        return f"Two one-sided tests show it of all{left}."
    told = [f"Two one-sided tests show it of {words.listing(shown)}"] if shown else []
    told += [f"so few seeds leave it open of {words.listing(rest)}"] if rest else []
    sentence = "; ".join(told)
    return f"{sentence[0].upper()}{sentence[1:]}."


def _bargain(pick: Arm, best: Arm) -> list[str]:
    """What the arm to take has over the best mean, where they are two."""
    if pick is best:
        return []
    found = ["no adapter"] if best.adapter_bytes and not pick.adapter_bytes else []
    ratios = (
        ("weights of the base", "less", pick.base_bytes, best.base_bytes),
        ("adapter", "smaller", pick.adapter_bytes, best.adapter_bytes),
        ("time", "less", pick.seconds, best.seconds),
    )
    for what, how, mine, other in ratios:
        if mine and other / mine >= WORTH_SAYING:
            found.append(f"{what} {words.times(other / mine)} {how}")
    if pick.forgetting and best.forgetting and best.forgetting.mean - pick.forgetting.mean >= 5e-4:
        found.append(f"{best.forgetting.mean - pick.forgetting.mean:.3f} nats per token less forgotten")
    return [f"Beside {best.label} it costs less: {words.listing(found)}."] if found else []


def _gap(pair: Pair, label: str, metric: str) -> str:
    """ "bitfit by 4.1 ± 1.3 (p = 0.002)"."""
    gap = _number(abs(pair.gap.mean), metric)
    return f"{label} by {gap} ± {_number(pair.gap.half_width, metric)} ({words.probability(pair.p_holm)})"


def _number(value: float, metric: str) -> str:
    return f"{value:.3f}" if metric in LOWER_IS_BETTER else f"{value:.1f}"
