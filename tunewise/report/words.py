"""Numbers as a reader wants them: percent, bytes, seconds, counts. And the sentence that sums a comparison up."""

from collections.abc import Sequence
from dataclasses import dataclass

from tunewise.report.arms import Arm
from tunewise.stats import Interval, welch

PERCENT = ("accuracy", "macro_f1", "exact_match", "rouge1", "rouge2", "rougeL")  # scores are 0 to 100 throughout
LOWER_IS_BETTER = ("loss",)
NAMES = {
    "macro_f1": "macro F1",
    "mcc": "MCC",
    "bleu": "BLEU",
    "chrf": "chrF",
    "exact_match": "exact match",
    "rougeL": "ROUGE-L",
}
ALPHA = 0.05
MARGIN = 2.0  # what counts as equally good: two points of a score, two per cent of a loss


def metric_name(metric: str) -> str:
    return NAMES.get(metric, metric.replace("_", " "))


def quality(metric: str, interval: Interval) -> str:
    """91.2 ± 1.3, or only the mean where one seed allows no interval."""
    digits = 3 if metric in LOWER_IS_BETTER else 1
    mean = f"{interval.mean:.{digits}f}"
    return f"{mean} ± {interval.half_width:.{digits}f}" if interval.n > 1 else mean


def unit(metric: str) -> str:
    return " %" if metric in PERCENT else ""


def signed(interval: Interval | None) -> str:
    """+0.041 ± 0.012, with a true minus sign; a dash where nothing was measured."""
    if interval is None:
        return "–"
    if abs(interval.mean) < 5e-5 and (interval.n == 1 or interval.half_width == 0):
        return "0"
    mean = f"{interval.mean:+.3f}".replace("-", "−")
    return f"{mean} ± {interval.half_width:.3f}" if interval.n > 1 else mean


def count(value: int) -> str:
    """1,234 up to a hundred thousand, then 0.12 M, 3.40 M, 1.20 B."""
    if value >= 1_000_000_000:
        return f"{value / 1e9:.2f} B"
    return f"{value / 1e6:.2f} M" if value >= 100_000 else f"{value:,}"


def size(n_bytes: int) -> str:
    """12 kB, 3.4 MB, 1.2 GB: powers of ten."""
    for unit_bytes, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if n_bytes >= unit_bytes:
            value = n_bytes / unit_bytes
            return f"{value:.0f} {name}" if value >= 100 else f"{value:.1f} {name}"
    return f"{n_bytes} B" if n_bytes else "–"


def duration(seconds: float) -> str:
    """0.4 s, 12 s, 3 min 05 s, 2 h 07 min."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


@dataclass(frozen=True)
class Verdict:
    """Which arm to take, and why. Every arm but the best stands in one of the three groups, or lost some of its seeds.

    equals: within the margin of the best mean and not told apart from it. open: further off, but the seeds scatter
    too widely for a test to tell. worse: told apart by Welch's t.
    """

    headline: str
    reason: str
    pick: Arm
    best: Arm
    equals: tuple[Arm, ...]
    open: tuple[Arm, ...]
    worse: tuple[Arm, ...]


def verdict(arms: Sequence[Arm]) -> Verdict:
    """The cheapest arm that is as good as the best one: within the margin of its mean, and not told apart by Welch's t.

    The margin matters because few seeds tell little apart: an arm whose seeds scatter widely is not as good for that.
    An arm of which seeds diverged is taken only where there is no other.
    """
    reliable = [arm for arm in arms if not arm.n_diverged] or arms
    best = best_of(reliable)
    others = [arm for arm in reliable if arm is not best]
    level = ALPHA / max(1, len(others))
    margin = MARGIN * abs(best.quality.mean) / 100 if best.metric in LOWER_IS_BETTER else MARGIN
    worse = tuple(arm for arm in others if _differs(best, arm, level))
    level_with = [arm for arm in others if arm not in worse]
    equals = tuple(arm for arm in level_with if abs(best.quality.mean - arm.quality.mean) <= margin)
    undecided = tuple(arm for arm in level_with if arm not in equals)
    pick = min((best, *equals), key=lambda arm: (arm.n_trainable, arm.seconds))
    headline = f"Take {pick.label}: {metric_name(best.metric)} {quality(pick.metric, pick.quality)}{unit(best.metric)}"
    headline += f" with {count(pick.n_trainable)} trained parameters." if pick.n_trainable else " with nothing trained."
    return Verdict(headline, _reason(pick, best, equals, undecided, worse), pick, best, equals, undecided, worse)


def best_of(arms: Sequence[Arm]) -> Arm:
    """The arm with the best mean."""
    sign = -1 if arms[0].metric in LOWER_IS_BETTER else 1
    return max(arms, key=lambda arm: sign * arm.quality.mean)


def _reason(pick: Arm, best: Arm, equals: Sequence[Arm], undecided: Sequence[Arm], worse: Sequence[Arm]) -> str:
    n_seeds = len(best.runs)
    if n_seeds < 2:
        return "One seed a method: the order may be chance. Run three or more seeds before you rely on it."
    near = f"{MARGIN:g} %" if best.metric in LOWER_IS_BETTER else f"{MARGIN:g} points"
    sentences = []
    if equals:
        rest = _listing([arm.label for arm in (best, *equals) if arm is not pick])
        sentences.append(
            f"Within {near} of it and not to be told apart: {rest}; it trains the fewest parameters of these."
        )
    if undecided:
        names = _listing([arm.label for arm in undecided])
        lower = "higher" if best.metric in LOWER_IS_BETTER else "lower"
        sentences.append(
            f"Not settled: {names}. The mean is {lower} by more than {near}, "
            f"but {n_seeds} seeds scatter too widely to rule out chance; more seeds would tell."
        )
    if worse:
        sentences.append(f"Reliably worse: {_listing([arm.label for arm in worse])}.")
    n_pairs = len(equals) + len(undecided) + len(worse)
    pairs = f"{n_pairs} pair" + ("s" if n_pairs != 1 else "")
    return " ".join([*sentences, f"(Welch's t on {n_seeds} seeds, Bonferroni over {pairs} with {best.label}.)"])


def _differs(one: Arm, other: Arm, level: float) -> bool:
    if len(one.scores) < 2 or len(other.scores) < 2:
        return one.quality.mean != other.quality.mean
    return welch(one.scores, other.scores).p < level


def _listing(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
