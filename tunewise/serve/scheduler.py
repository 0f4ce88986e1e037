"""The one thread that asks the models: what waits is gathered into batches, answers are told as they are written."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial

import torch

from tunewise.engine.backend import chosen
from tunewise.engine.continuous import Writing, writing
from tunewise.engine.decoding import end_ids
from tunewise.engine.packed_reading import why_not_read
from tunewise.engine.weighed import weigh_prompt
from tunewise.evaluation.asks import Asks
from tunewise.models.families import ENCODER_DECODER
from tunewise.run.speakers import Said, Speakers
from tunewise.serve.job import Choice, Chosen, Job, Token, Weighing, choices_of
from tunewise.serve.questions import Question, questions_of
from tunewise.serve.refusal import FAILED, OVERLOADED, Refusal

logger = logging.getLogger(__name__)

SECONDS_TO_GATHER = 0.004
"""After which those that have come to an idle server begin."""
UNAVAILABLE = 503


@dataclass
class _Group:
    """Lanes that write into one batch, or one that cannot, and their answers that are being written or wait for it."""

    lanes: Sequence[int]
    entered: Callable[[], AbstractContextManager[None]]
    """Inside the block the model is theirs."""
    afresh: Callable[[], Writing]
    is_shared: bool
    """Whether the lanes stay where they are, so that others can be asked in between."""
    writing: Writing
    waiting: deque[Choice] = field(default_factory=deque)
    running: list[Choice] = field(default_factory=list)
    turn: int = 0
    """That of the last one that has begun."""

    def queue(self, choices: Sequence[Choice]) -> None:
        """Let these wait: job by job one answer in each turn, so that a job of many keeps nobody waiting for them all
        (start-time fair queueing: Goyal et al. 1996, SIGCOMM, section 2)."""
        for number, choice in enumerate(choices):
            choice.turn = self.turn + number
        self.waiting = deque(sorted([*self.waiting, *choices], key=lambda choice: choice.turn))

    def admit(self) -> None:
        """Begin with as many of those that wait as there are places, and forget those that nobody waits for."""
        self.waiting = deque(choice for choice in self.waiting if not choice.job.is_over)
        while self.waiting and self.writing.add(self.waiting[0].wanted):
            choice = self.waiting.popleft()
            self.running.append(choice)
            self.turn = choice.turn

    def step(self) -> None:
        self.writing.step()
        self.running = [choice for choice in self.running if choice.tell()]

    def fail(self, refusal: Refusal) -> None:
        """Give up all that is being written."""
        for choice in self.running:
            choice.job.refuse(refusal)
        self.running, self.writing = [], self.afresh()


class Scheduler:
    """Answers jobs between `start` and `close`, `n_places` of them at a time, in a cache of `n_slots` tokens; while
    `most_waiting` answers wait, it takes no more."""

    def __init__(self, speakers: Speakers, n_places: int, n_slots: int, most_waiting: int) -> None:
        self._speakers, self._n_places, self._n_slots = speakers, n_places, n_slots
        self._most_waiting = most_waiting
        self._prefixes = [speaker.how.prefix_ids for speaker in speakers.each]
        self._ends: set[int] = set()
        self._changed = threading.Condition()
        self._arrived: list[Job] = []
        self._is_closed = False
        self._to_choose: deque[Chosen] = deque()
        self._to_weigh: deque[Weighing] = deque()
        self._groups: list[_Group] = []
        self._is_ready = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)

    @contextmanager
    def started(self) -> Iterator[None]:
        """Answers inside the block; raises what keeps it from beginning, and behind the block what made it end."""
        self._thread.start()
        try:
            self._is_ready.wait()
            if self._error is not None:
                raise self._error
            yield
            if self._error is not None:
                raise self._error
        finally:
            self.close()
            self._thread.join()

    def ask(self, job: Job) -> None:
        """Answer this one in its turn, or refuse it."""
        with self._changed:
            if self._is_closed:
                job.refuse(_ending())
                return
            if (n_waiting := self.n_waiting) >= self._most_waiting:
                job.refuse(_overloaded(n_waiting))
                return
            self._arrived.append(job)
            self._changed.notify()

    def close(self) -> None:
        """Take no more, and break off what is being answered."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    @property
    def is_alive(self) -> bool:
        """Whether it answers."""
        return self._is_ready.is_set() and not self._is_closed

    @property
    def n_waiting(self) -> int:
        """Answers that wait for a place."""
        arrived = sum(job.request.n_answers for job in self._arrived)
        weighed = sum(each.job.request.n_answers for each in self._to_weigh)
        return arrived + weighed + len(self._to_choose) + sum(len(group.waiting) for group in self._groups)

    @property
    def n_running(self) -> int:
        """Answers that are being written."""
        return sum(len(group.running) for group in self._groups)

    def _run(self) -> None:
        try:
            self._work()
        except Exception as error:
            self._error = error
            logger.exception("nothing is answered any more")
        finally:
            self.close()
            self._is_ready.set()
            for job in self._all_jobs():
                job.refuse(_ending())

    @torch.no_grad()
    def _work(self) -> None:
        with chosen(self._speakers.base.model.device), self._speakers.at_once():
            self._groups = list(self._grouped())
            self._is_ready.set()
            while self._hear():
                self._choose()
                self._weigh()
                for group in self._groups:
                    self._write(group)

    def _grouped(self) -> Iterator[_Group]:
        """Who writes with whom."""
        speakers = self._speakers
        base = speakers.base
        if base.tokenizer is None or base.head.kind != "lm":
            return
        self._ends = end_ids(base.model, base.tokenizer)
        if speakers.by_lane is not None:
            found = speakers.by_lane.writers()
        else:
            found = [((number,), self._is_packed(number)) for number in range(len(speakers.each))]
        for lanes, is_packed in found:
            is_shared = len(lanes) > 1
            beside = speakers.lanes if is_shared else None
            afresh = partial(writing, base, beside, is_packed, self._n_places, self._n_slots)
            entered = nullcontext if is_shared else partial(speakers.only, lanes[0])
            yield _Group(lanes, entered, afresh, is_shared, afresh())

    def _is_packed(self, number: int) -> bool:
        speaker, base = self._speakers.each[number], self._speakers.base
        if not speaker.how.packing or base.anatomy.kind == ENCODER_DECODER:
            return False
        with self._speakers.only(number):
            return not why_not_read(base.model, speaker.how.prefix_ids)

    def _hear(self, *, waits: bool = True) -> bool:
        """Take what has arrived, waiting for it where nothing is to be done; False once the server ends."""
        with self._changed:
            if waits and not self._others_wait():
                self._changed.wait_for(lambda: self._arrived or self._is_closed)
                self._changed.wait_for(lambda: self._is_closed, SECONDS_TO_GATHER)
            arrived, self._arrived = self._arrived, []
            is_closed = self._is_closed
        for job in arrived:
            self._begin(job)
        return not is_closed

    def _begin(self, job: Job) -> None:
        try:
            questions = questions_of(self._speakers, job.request, self._n_slots)
        except Refusal as refusal:
            job.refuse(refusal)
            return
        except Exception:
            logger.exception("a question could not be read")
            job.refuse(Refusal("the question could not be read", status=500, kind=FAILED))
            return
        job.begin(questions)
        if questions[0].how is None:
            self._to_choose += [Chosen(job, question) for question in questions]
        elif job.request.weighs_prompts:
            self._to_weigh.append(Weighing(job, questions))
        else:
            self._queue(job, questions)

    def _queue(self, job: Job, questions: Sequence[Question], read: Sequence[tuple[Token, ...]] = ()) -> None:
        """Let its answers be written in their turn."""
        tokenizer = self._speakers.base.tokenizer
        assert tokenizer is not None
        group = next(group for group in self._groups if questions[0].lane in group.lanes)
        group.queue(choices_of(job, questions, self._prefixes, tokenizer, self._ends, lambda: self._is_closed, read))

    def _write(self, group: _Group) -> None:
        """Until nothing of this group is being written; while others wait, it begins with nothing new."""
        if not group.waiting:
            return
        with group.entered():
            group.admit()
            while group.writing.is_busy and self._hear(waits=False):
                if group.is_shared:
                    self._choose()
                    self._weigh()
                if not self._others_wait(group):
                    group.admit()
                try:
                    group.step()
                except Exception as error:
                    logger.exception("a batch failed")
                    group.fail(Refusal(f"the answer failed: {error}", status=500, kind=FAILED))

    def _others_wait(self, group: _Group | None = None) -> bool:
        """Whether anything waits but answers of this group."""
        others = (other for other in self._groups if other is not group)
        return bool(self._to_choose or self._to_weigh) or any(other.waiting for other in others)

    def _weigh(self) -> None:
        """Weigh one prompt of one of the jobs that want it, in turn; a job with all of them weighed is answered."""
        if not self._to_weigh:
            return
        one, base = self._to_weigh.popleft(), self._speakers.base
        question, n_best = one.next, one.job.request.n_best
        if one.job.is_over:
            return
        assert base.tokenizer is not None
        assert n_best is not None
        try:
            with self._speakers.only(question.lane):
                found = weigh_prompt(base.model, question.ids, n_best, prefix_ids=self._prefixes[question.lane])
        except Exception as error:
            logger.exception("a prompt failed")
            one.job.refuse(Refusal(f"the prompt failed: {error}", status=500, kind=FAILED))
            return
        if one.tell(found, base.tokenizer):
            self._to_weigh.append(one)
        else:
            self._queue(one.job, one.questions, one.told)

    def _choose(self) -> None:
        """Answer what is chosen among given answers: of all lanes in one batch."""
        by_lane: dict[int, list[Chosen]] = {}
        while self._to_choose:
            one = self._to_choose.popleft()
            if not one.job.is_over:
                by_lane.setdefault(one.question.lane, []).append(one)
        if not by_lane:
            return
        asks = {lane: self._chosen(lane, held) for lane, held in by_lane.items()}
        try:
            self._speakers.answers(asks)
        except Exception as error:
            logger.exception("a choice failed")
            for one in (one for held in by_lane.values() for one in held):
                one.job.refuse(Refusal(f"the answer failed: {error}", status=500, kind=FAILED))

    def _chosen(self, lane: int, held: Sequence[Chosen]) -> Asks[None]:
        speaker, base = self._speakers.each[lane], self._speakers.base
        questions = speaker.questions(base, [one.question.example for one in held])
        found: list[Said] = yield from speaker.says(base, questions)
        for one, said in zip(held, found, strict=True):
            one.tell(said, self._n_tokens(said.text))

    def _n_tokens(self, text: str) -> int:
        tokenizer = self._speakers.base.tokenizer
        return 0 if tokenizer is None else len(tokenizer(text, add_special_tokens=False)["input_ids"])

    def _all_jobs(self) -> list[Job]:
        choices = [choice for group in self._groups for choice in (*group.waiting, *group.running)]
        return [*self._arrived, *(one.job for one in (*self._to_choose, *self._to_weigh, *choices))]


def _overloaded(n_waiting: int) -> Refusal:
    told = f"{n_waiting} answers wait already; ask again later"
    return Refusal(told, status=UNAVAILABLE, kind=FAILED, code=OVERLOADED)


def _ending() -> Refusal:
    return Refusal("the server is ending", status=UNAVAILABLE, kind=FAILED)
