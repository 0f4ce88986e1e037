"""Runs on one base asked at once: those whose questions fill the machine, or share little of the base, one by one."""

import logging
from collections.abc import Callable, Mapping, Sequence

from tunewise.errors import UserError
from tunewise.evaluation.asks import Asks, Known
from tunewise.evaluation.by_lane import ByLane
from tunewise.methods.lanes import Draws, Lanes
from tunewise.run.carry_out import Run
from tunewise.training.sharing import Demand, demand, share

logger = logging.getLogger(__name__)


class AskedTogether:
    """`runs` as lanes of one batch; lane number i is run number i, while `lanes` are on the base."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = runs
        self._own_shares = [demand(run.base.model, run.recipe.method, 0.0).own_share for run in runs]
        self._by_lane: tuple[Lanes, ByLane] | None = None

    def dev_scores(self, lanes: Lanes, numbers: Sequence[int]) -> list[float]:
        """How good the present states of these runs are on dev, higher being better."""
        return list(
            self.answers(lanes, {number: self._runs[number].answers.dev_score() for number in numbers}).values()
        )

    def answers(self, lanes: Lanes, asks: Mapping[int, Asks[Known]]) -> dict[int, Known]:
        """What each of these asks comes to."""
        if self._by_lane is None or self._by_lane[0] is not lanes:
            how = {number: run.answers.how for number, run in enumerate(self._runs)}
            self._by_lane = lanes, ByLane(self._runs[0].base, lanes, how, self._groups)
        return self._by_lane[1].answers(asks)

    def _groups(self, tokens: Mapping[int, float]) -> list[list[int]]:
        """By the cost model of training: a forward has no depth, so that runs of any depth go together."""
        numbers = list(tokens)
        demands = [Demand(tokens[number], 0, self._own_shares[number]) for number in numbers]
        found = share(demands, self._runs[0].base.model, is_trained=False)
        return [[numbers[index] for index in group] for group in found.groups]


def asked_together(runs: Mapping[int, Run], asks: Callable[[int, Run], Asks[Known]]) -> dict[int, Known]:
    """What the asks of each of these runs, which are all detached, come to; nothing where they are to be asked one by
    one."""
    if len(runs) < 2:
        return {}
    of_lane = list(runs.values())
    draws = [Draws(run.recipe.seed, run.base.model.device) for run in of_lane]
    try:
        with Lanes([run.tuned for run in of_lane], draws) as lanes:
            every = {lane: asks(number, run) for lane, (number, run) in enumerate(runs.items())}
            found = AskedTogether(of_lane).answers(lanes, every)
    except UserError as error:
        logger.info("runs are asked one after another: %s", error.message)
        return {}
    return {number: found[lane] for lane, number in enumerate(runs)}
