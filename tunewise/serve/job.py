"""A request on its way: what it asks, its answers as they are written, and what is told of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from tunewise.engine.continuous import Wanted
from tunewise.engine.decoding import Answer, Choose, most_probable
from tunewise.engine.weighed import Weighed
from tunewise.run.speakers import Said
from tunewise.serve.fields import Chat, Completion
from tunewise.serve.growing import Growing
from tunewise.serve.questions import Question
from tunewise.serve.refusal import Refusal


@dataclass(frozen=True)
class Token:
    """A token that was read or written, its log-probability, and those of the most probable ones there."""

    text: str
    log_probability: float | None
    """None of the first one of a prompt, which nothing stands before."""
    best: tuple[tuple[str, float], ...]
    is_in_text: bool = True
    """False of one that a prompt begins with and its text does not, as a begin token."""


@dataclass(frozen=True)
class Piece:
    """Something more of the answer of this number; its last piece says why it ends."""

    index: int
    text: str
    finish: str = ""
    probabilities: Mapping[str, float] = field(default_factory=dict)
    """Of the answers among which this one was chosen."""
    tokens: tuple[Token, ...] = ()
    """Those that were written since the piece before, where that is asked for."""


@dataclass(frozen=True)
class Done:
    """All answers are there: the tokens that were read, and those that were written."""

    prompt_tokens: int
    completion_tokens: int


Event = Piece | Done | Refusal


class Job:
    """A request. `tell` is called by the thread that answers; `give_up` by whoever hears that nobody listens."""

    def __init__(self, request: Chat | Completion, tell: Callable[[Event], None]) -> None:
        self.request, self._tell = request, tell
        self.is_over = False
        """Nothing more is to be done for it."""
        self._n_open = self._prompt_tokens = self._completion_tokens = 0

    def begin(self, questions: Sequence[Question]) -> None:
        """So many answers are to come."""
        self._n_open = len(questions) * self.request.n
        self._prompt_tokens = sum(len(question.ids) for question in questions)

    def give_up(self) -> None:
        self.is_over = True

    def refuse(self, refusal: Refusal) -> None:
        """There is no answer, or no more of it."""
        if not self.is_over:
            self.is_over = True
            self._tell(refusal)

    def hand_on(self, piece: Piece) -> None:
        if not self.is_over and (piece.text or piece.finish or piece.tokens):
            self._tell(piece)

    def end_one(self, n_tokens: int) -> None:
        """One of the answers has ended, with so many tokens."""
        self._n_open -= 1
        self._completion_tokens += n_tokens
        if not self._n_open and not self.is_over:
            self.is_over = True
            self._tell(Done(self._prompt_tokens, self._completion_tokens))


class Choice:
    """One of a job's answers, which is written."""

    def __init__(
        self, job: Job, index: int, wanted: Wanted, growing: Growing, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        self.job, self.wanted = job, wanted
        self._index, self._growing, self._tokenizer = index, growing, tokenizer
        self._n_weighed = 0
        self.turn = 0
        """When it begins, among those that wait."""

    def tell(self) -> bool:
        """Hand on what is there; whether more will come."""
        answer = self.wanted.answer
        if self.job.is_over:
            return False
        if answer.ended == "given up":  # by a server that ends, and refuses what it has not answered
            return True
        if answer.ended:
            finish = "length" if answer.ended == "length" else "stop"
            self.job.hand_on(Piece(self._index, self._growing.last(answer.text), finish, tokens=self._tokens()))
            self.job.end_one(len(answer.tokens))
            return False
        if self.job.request.stream:
            self.job.hand_on(Piece(self._index, self._growing.piece(answer.text), tokens=self._tokens()))
        return True

    def _tokens(self) -> tuple[Token, ...]:
        """Those that were weighed since it was asked, the one that ends the answer aside."""
        n_before, self._n_weighed = self._n_weighed, len(self.wanted.answer.tokens)
        return tuple(_told(one, self._tokenizer) for one in self.wanted.weighed[n_before : self._n_weighed])


@dataclass
class Weighing:
    """A job whose prompts are weighed, one after another, before they are answered."""

    job: Job
    questions: Sequence[Question]
    told: list[tuple[Token, ...]] = field(default_factory=list)
    """Of those that are done: their tokens."""

    @property
    def next(self) -> Question:
        """The one whose turn it is."""
        return self.questions[len(self.told)]

    def tell(self, found: Sequence[Weighed], tokenizer: PreTrainedTokenizerBase) -> bool:
        """All tokens of the next one but its first were `found` to be so probable; whether others are left."""
        first = self.next.ids[0]
        is_in_text = first not in tokenizer.all_special_ids or self.next.echo.startswith(_text(first, tokenizer))
        opening = Token(_text(first, tokenizer), None, (), is_in_text)
        self.told.append((opening, *(_told(one, tokenizer) for one in found)))
        return len(self.told) < len(self.questions)


def _told(one: Weighed, tokenizer: PreTrainedTokenizerBase) -> Token:
    best = tuple((_text(other, tokenizer), share) for other, share in one.best)
    return Token(_text(one.token, tokenizer), one.log_probability, best)


def _text(token: int, tokenizer: PreTrainedTokenizerBase) -> str:
    text = tokenizer.decode([token])
    assert isinstance(text, str)
    return text


@dataclass(frozen=True)
class Chosen:
    """A question of a job, one of whose given answers is chosen."""

    job: Job
    question: Question

    def tell(self, said: Said, n_tokens: int) -> None:
        """The same for each answer that is wanted: nothing is drawn."""
        for index in range(self.job.request.n):
            self.job.hand_on(Piece(index, said.text, "stop", said.probabilities))
            self.job.end_one(n_tokens)


def choices_of(
    job: Job,
    questions: Sequence[Question],
    prefixes: Sequence[Sequence[int]],
    tokenizer: PreTrainedTokenizerBase,
    ends: set[int],
    has_ended: Callable[[], bool],
    read: Sequence[tuple[Token, ...]] = (),
) -> list[Choice]:
    """The answers that are to be written: `n` to each question, behind the virtual tokens of their lanes. They are
    given up with the job, and once the server `has_ended`. What is to be told before them, and of those of no token
    everything, is handed on: of their prompts these tokens were `read`."""

    def is_given_up() -> bool:
        return job.is_over or has_ended()

    found: list[Choice] = []
    for number, question in enumerate(questions):
        how = question.how
        assert how is not None
        tokens = read[number] if read else ()
        choose: Choose = most_probable if how.sampling is None else how.sampling.chooser()
        ids = (*prefixes[question.lane], *question.ids)
        for index in range(number * job.request.n, (number + 1) * job.request.n):
            job.hand_on(Piece(index, question.echo, "" if how.max_new_tokens else "length", tokens=tokens))
            if not how.max_new_tokens:
                job.end_one(0)
                continue
            answer = Answer(tokenizer, ends, how)
            wanted = Wanted(
                question.lane, ids, answer, how.max_new_tokens, choose, index, job.request.n_best,
                is_given_up=is_given_up,
            )  # fmt: skip
            found.append(Choice(job, index, wanted, Growing(how.stops, not question.is_raw), tokenizer))
    return found
