"""`fit_together`: several runs over one frozen base, as lanes of one batch; each ends as it does alone."""

import logging
import time
from collections.abc import Callable, Sequence

import torch

from tunewise.engine.backend import chosen
from tunewise.engine.joining import joint_row_losses
from tunewise.engine.trunk import evaluating
from tunewise.errors import UserError
from tunewise.methods.alone import CannotShare
from tunewise.methods.lanes import Draws, Lanes
from tunewise.training.interrupt import Interrupted, Interrupts
from tunewise.training.lane import Answer, Asked, Diverged, FitResult, Lane, ToScore, Training
from tunewise.training.trial import why_not_together

logger = logging.getLogger(__name__)


DevScores = Callable[[Lanes, Sequence[int]], list[float]]
"""Scores of the present states of the lanes with these numbers on dev, the model being in evaluation mode."""


def fit_together(trainings: Sequence[Training], dev_scores: DevScores | None = None) -> list[FitResult | Diverged]:
    """Train all of them over their one base, and leave its best state in each; the results in the same order.

    Every `tuned` is detached, before and behind it. Each run has its own learning rate, clipping, schedule, order of
    rows, dropout and loss, and writes its own log and checkpoints; one that ends leaves the batch, and so does one that
    diverges: its error stands in the place of its result. Any other error in one of them, or Ctrl-C, stops all, each
    with a checkpoint from which `fit` or this goes on. States that are to be scored at the same time are by
    `dev_scores`, and without it, or where it raises UserError, one by one. Raises CannotShare where `why_not_together`
    has a reason, and as `fit` does.
    """
    reason = why_not_together(trainings)
    if reason:
        raise CannotShare(reason)
    model = trainings[0].tuned.model
    draws = [Draws(training.seed, model.device) for training in trainings]
    lanes = Lanes([training.tuned for training in trainings], draws)
    model.train()
    try:
        with chosen(model.device), Interrupts() as interrupts, lanes:
            turns = [_Turn(number, training, lanes, interrupts) for number, training in enumerate(trainings)]
            try:
                _take_turns(turns, lanes, interrupts, dev_scores)
            except CannotShare as reason:  # none of them is what it was: who trained them alone would go on from there
                raise UserError(reason.message, "train them one after another: train.lanes=false") from reason
            return [turn.diverged or turn.lane.result(turn.stopped_by) for turn in turns]
    finally:
        model.eval()
        for training in trainings:
            for tensor in training.tuned.trainable.values():
                tensor.grad = None


class _Turn:
    """A lane among others, and what it waits for."""

    def __init__(self, number: int, training: Training, lanes: Lanes, interrupts: Interrupts) -> None:
        self.number, self._draws = number, lanes.draws[number]
        with self._draws:
            self.lane = Lane(training, lambda: lanes.only(training.tuned), len(lanes.tuned))
        self._steps = self.lane.steps(interrupts)
        self.asked: Asked | ToScore | None = None
        self.error: UserError | None = None
        self.diverged: Diverged | None = None
        self.stopped_by = ""

    def take(self, answer: Answer | float | UserError | None) -> None:
        """Let the lane go on until it asks for the next gradients or its score, or ends."""
        self.asked = None
        with self._draws:
            try:
                failed = isinstance(answer, UserError)
                self.asked = self._steps.throw(answer) if failed else self._steps.send(answer)
            except StopIteration as end:
                self.stopped_by = end.value
            except Diverged as error:
                self.diverged = error
            except UserError as error:
                self.error = error

    def scored(self) -> float | UserError:
        """The score that it asks for, with no other on the base, or why it has none."""
        assert isinstance(self.asked, ToScore)
        with self._draws:
            try:
                return self.asked.alone()
            except UserError as error:
                return error

    def save(self) -> None:
        """Write a checkpoint of a lane that has ended."""
        with self._draws:
            self.lane.save()


def _take_turns(turns: Sequence[_Turn], lanes: Lanes, interrupts: Interrupts, dev_scores: DevScores | None) -> None:
    """Every step of every lane; raises the first error of one of them when all others have left a checkpoint."""
    answers: list[Answer | float | UserError | None] = [None] * len(turns)
    waiting = list(turns)
    while waiting:
        for turn, answer in zip(waiting, answers, strict=True):
            turn.take(answer)
            if turn.error is not None and not interrupts.requested:
                interrupts.request("an error in another run")
        waiting = [turn for turn in turns if turn.asked is not None]
        to_score = [turn for turn in waiting if isinstance(turn.asked, ToScore)]
        if to_score:  # the others wait: their gradients are to be taken in one batch with those of these
            waiting, answers = to_score, _scores(to_score, lanes, dev_scores)
        else:
            answers = _gradients(waiting, lanes) if waiting else []
    errors = [turn.error for turn in turns if turn.error is not None]
    if errors:
        for turn in turns:
            if turn.error is None and turn.diverged is None:
                turn.save()
        others = f", and {len(errors) - 1} more" if len(errors) > 1 else ""
        stopped = Interrupted(errors[0].message + others, errors[0].hint)
        raise next((error for error in errors if not isinstance(error, Interrupted)), stopped)


def _scores(turns: Sequence[_Turn], lanes: Lanes, dev_scores: DevScores | None) -> list[float | UserError]:
    """What each scores on dev, or why it has no score."""
    if dev_scores is not None and len(turns) > 1:
        try:
            with evaluating(lanes.model):
                return [*dev_scores(lanes, [turn.number for turn in turns])]
        except UserError as error:
            logger.info("lanes are scored one after another: %s", error.message)
    return [turn.scored() for turn in turns]


def _gradients(turns: Sequence[_Turn], lanes: Lanes) -> list[Answer | float | UserError | None]:
    """One forward and backward for all: the loss of each, its gradients in place, and its share of the time."""
    start, model = time.perf_counter(), lanes.model
    asked = [turn.asked for turn in turns if isinstance(turn.asked, Asked)]
    objectives, numbers = [turn.lane.training.objective for turn in turns], [turn.number for turn in turns]
    by_row = joint_row_losses(objectives, lanes, numbers, [each.batch for each in asked])
    by_row = [each.weighed(of_lane) for of_lane, each in zip(by_row, asked, strict=True)]
    losses = [of_lane.sum() / each.weight for of_lane, each in zip(by_row, asked, strict=True)]
    torch.stack(losses).sum().backward()
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    seconds = (time.perf_counter() - start) / sum(each.batch.n_tokens for each in asked)
    return [
        Answer(loss.detach(), seconds * each.batch.n_tokens, of_lane.detach())
        for loss, of_lane, each in zip(losses, by_row, asked, strict=True)
    ]
