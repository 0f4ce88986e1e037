"""In words: after how many queries an arm's training is paid back against showing demonstrations."""

from collections.abc import Sequence

from tunewise.break_even import BreakEven, between, can_break_even
from tunewise.directions import LOWER_IS_BETTER
from tunewise.report import words
from tunewise.report.arms import Arm


def paid_back(arms: Sequence[Arm], pick: Arm) -> list[str]:
    """One sentence on `pick`, or the best tuned arm where nothing is trained in it, beside the best arm that shows
    demonstrations; none where there is no such pair."""
    sign = -1 if pick.metric in LOWER_IS_BETTER else 1
    ranked = sorted(arms, key=lambda arm: (arm is not pick, -sign * arm.quality.mean))
    for tuned in ranked:
        for shown in ranked:
            runs, of_shown = ([run.metrics for run in arm.runs] for arm in (tuned, shown))
            if can_break_even(runs, of_shown):
                return [_sentence(between(tuned.label, runs, shown.label, of_shown))]
    return []


def _sentence(found: BreakEven) -> str:
    training = f"the training of {found.tuned} ({words.duration(found.train_seconds)})"
    mine, theirs = (f"{1000 * seconds:.2g}" for seconds in found.seconds_a_query)
    read, shown = (f"{tokens:,.0f}" for tokens in found.tokens_a_query)
    return (
        f"Beside {found.shown}, {training} is paid back {_after(found.queries)}, at {mine} against {theirs} ms a query "
        f"as measured here, where the demonstrations are read once for all; {_after(found.queries_by_tokens)} where "
        f"each query reads {shown} tokens instead of {read}."
    )


def _after(queries: int | None) -> str:
    """ "after about 7,100 queries": seconds scatter too much for more digits."""
    return "by no number of queries" if queries is None else f"after about {float(f'{queries:.2g}'):,.0f} queries"
