"""Self-Instruct: a teacher that is shown tasks writes others, and an example or several of each.

Wang et al. 2023, arXiv:2212.10560, section 2. Work goes in rounds. What the requests of a round ask depends on the rows
of earlier rounds alone, and what becomes of an answer on those before it in the order of their keys, not in that of
time: so a run that is killed, or goes on with other threads and other caps, ends with the same rows.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tunewise.teacher import filters, parsing, prompts
from tunewise.teacher.account import Account
from tunewise.teacher.desk import Desk
from tunewise.teacher.exchange import Reply, Request
from tunewise.teacher.novelty import Kept
from tunewise.teacher.rows import Row
from tunewise.teacher.scripts import scripts_of
from tunewise.teacher.seeds import Task
from tunewise.teacher.settings import Wanted
from tunewise.teacher.shown import Shown, of_different_instructions

REQUESTS_A_ROUND = 16
NEW = 8
"""Instructions asked for by one request."""
MOST_EXAMPLES = 4
"""Kept of one instruction, so that classifications of many labels do not fill the set."""
A_TIME = 64
"""Instructions whose examples are asked for at a time; the rows are the same with any other number."""
IDLE_ROUNDS = 2
"""Rounds in a row that keep nothing, after which nothing more is to be hoped for."""
TOKENS = {"instructions": 1024, "class": 16, "example": 1024, "tasks": 3072}


@dataclass(frozen=True)
class Candidate:
    """An instruction that is new, and where it comes from."""

    instruction: str
    place: str
    """The key of its request without the kind, and its number in the answer, as in `2/7.3`."""
    shown: tuple[str, ...]


class SelfInstruct:
    """The rows of a run, made of what its desk answers."""

    def __init__(self, seeds: Sequence[Task], wanted: Wanted, desk: Desk, account: Account) -> None:
        self._wanted, self._desk, self._account = wanted, desk, account
        self._scripts = scripts_of(task.instruction for task in seeds)
        self._pool, self._names = Kept(wanted.novelty), [task.id for task in seeds]
        for task in seeds:
            self._pool.add(task.instruction)
        self._shown = Shown(seeds, wanted.seed)
        self.rows: list[Row] = []
        self._n_asked = 0

    def run(self, n: int) -> list[Row]:
        """Rows until there are `n`, or until the desk is closed."""
        number = idle = 0
        while len(self.rows) < n and self._desk.is_open:
            before = len(self.rows)
            self._round(number, n)
            number, idle = number + 1, idle + 1 if len(self.rows) == before else 0
            if idle == IDLE_ROUNDS and self._desk.is_open:
                self._desk.close(f"{idle} rounds in a row brought nothing new")
        return self.rows

    def _round(self, number: int, n: int) -> None:
        """Its requests, a part of them at a time: no more are sent than the missing rows are likely to take."""
        generated = of_different_instructions(self.rows)
        done = 0
        while done < REQUESTS_A_ROUND and len(self.rows) < n and self._desk.is_open:
            rows_a_request = max(0.5, len(self.rows) / self._n_asked) if self._n_asked else NEW / 2
            upto = min(REQUESTS_A_ROUND, done + math.ceil((n - len(self.rows)) / rows_a_request))
            if self._wanted.kind == "one step":
                self._whole_tasks(number, range(done, upto), generated, n)
            else:
                candidates = list(self._candidates(number, range(done, upto), generated))
                while candidates and len(self.rows) < n:
                    n_next = min(A_TIME, n - len(self.rows))
                    candidates = candidates[n_next:] if self._examples(candidates[:n_next], n) else []
            self._n_asked += upto - done
            done = upto

    def _candidates(self, number: int, indices: range, generated: Sequence[Task]) -> Iterator[Candidate]:
        """New instructions, in order."""
        places = [f"{number}/{index}" for index in indices]
        shown = [self._shown.instructions(place, generated) for place in places]
        asked = [
            self._request(place, "instructions", prompts.instructions(tasks, NEW), (f"Task {len(tasks) + NEW + 1}:",))
            for place, tasks in zip(places, shown)
        ]
        for place, tasks, request, reply in zip(places, shown, asked, self._desk.ask(asked)):
            text = self._text(request, reply, "instructions")
            parts = parsing.numbered(text, len(tasks) + 1) if text else []
            for index, part in enumerate(parts):
                instruction = parsing.one_instruction(part)
                was_cut = reply.was_cut and index == len(parts) - 1
                if self._is_new(instruction, request.key, was_cut):
                    yield Candidate(instruction, f"{place}.{index}", tuple(task.id for task in tasks))

    def _examples(self, candidates: Sequence[Candidate], n: int) -> bool:
        """Ask for the examples of instructions, of which it is asked first whether they are classifications.

        Whether all was answered.
        """
        asked = [
            self._request(one.place, "class", prompts.is_classification(self._shown.mixed, one.instruction), ("\n\n",))
            for one in candidates
        ]
        known: list[tuple[Candidate, bool, Request]] = []
        answers = self._desk.ask(asked)
        for one, request, reply in zip(candidates, asked, answers):
            text = self._text(request, reply, "examples")
            is_class = parsing.yes_or_no(text) if text else None
            if is_class is not None:
                text = (
                    prompts.output_first(self._shown.classes, one.instruction)
                    if is_class
                    else prompts.input_first(self._shown.others, one.instruction)
                )
                known.append((one, is_class, self._request(one.place, "example", text, ("\nTask:",))))
            elif text:
                self._account.rejects("examples", request.key, "neither yes nor no to classification", text)
        replies = self._desk.ask([request for _, _, request in known])
        for (one, is_class, request), reply in zip(known, replies):
            text = self._text(request, reply, "examples")
            if not text:
                continue
            found = parsing.labelled(text) if is_class else parsing.pair(text)
            if isinstance(found, str):
                self._account.rejects("examples", request.key, found, text)
                continue
            pairs = found if isinstance(found, list) else [found]
            self._take(one, pairs, request, n, is_class=is_class, was_cut=reply.was_cut)
        return len(answers) == len(asked) and len(replies) == len(known)

    def _whole_tasks(self, number: int, indices: range, generated: Sequence[Task], n: int) -> None:
        """Ask for instructions with their example, all in one."""
        places = [f"{number}/{index}" for index in indices]
        shown = [self._shown.whole(place, generated) for place in places]
        asked = [
            self._request(place, "tasks", prompts.whole(tasks, NEW), (f"Task {len(tasks) + NEW + 1}:",))
            for place, tasks in zip(places, shown)
        ]
        for place, tasks, request, reply in zip(places, shown, asked, self._desk.ask(asked)):
            text = self._text(request, reply, "instructions")
            parts = parsing.tasks(text, len(tasks) + 1) if text else []
            for index, part in enumerate(parts):
                was_cut = reply.was_cut and index == len(parts) - 1
                if not self._is_new(part.instruction, request.key, was_cut and part.output is None):
                    continue
                if part.output is None:
                    self._account.rejects("examples", request.key, "no output in the answer", part.instruction)
                    continue
                one = Candidate(part.instruction, f"{place}.{index}", tuple(task.id for task in tasks))
                self._take(one, [(part.input, part.output)], request, n, is_class=None, was_cut=was_cut)

    def _is_new(self, instruction: str, request: str, was_cut: bool) -> bool:
        """Whether an instruction is kept; from now on others are held against it."""
        why = "answer cut short" if was_cut else ""
        why = why or filters.why_no_instruction(instruction, scripts=self._scripts, keywords=self._wanted.keywords)
        why, detail = (why, "") if why else filters.why_not_new(instruction, self._pool, self._names)
        if why:
            self._account.rejects("instructions", request, why, instruction, detail)
            return False
        self._account.keeps("instructions")
        self._pool.add(instruction)
        self._names.append(request)
        return True

    def _take(
        self, one: Candidate, pairs: Sequence[tuple[str, str]], request: Request, n: int,
        *, is_class: bool | None, was_cut: bool,
    ) -> None:  # fmt: skip
        """Keep the examples of an instruction that nothing speaks against, while rows are missing."""
        n_kept = 0
        for index, ((given, output), twice) in enumerate(zip(pairs, filters.contradicted(pairs))):
            if len(self.rows) == n:
                break
            why = "answer cut short" if was_cut and index == len(pairs) - 1 else twice
            why = why or filters.why_no_example(one.instruction, given, output, is_label=bool(is_class))
            why = why or (f"more than {MOST_EXAMPLES} of one instruction" if n_kept == MOST_EXAMPLES else "")
            if why:
                text = f"{one.instruction}\nInput: {given}\nOutput: {output}"
                self._account.rejects("examples", request.key, why, text)
                continue
            n_kept += 1
            self._account.keeps("examples")
            name = self._desk.teacher.name
            self.rows.append(Row(one.instruction, given, output, name, request.key, one.shown, is_class))
        self._desk.kept(len(self.rows))

    def _request(self, place: str, kind: str, text: str, stops: tuple[str, ...]) -> Request:
        """A request of one kind; new instructions are drawn, all else is the most probable. `stops` end the answer of
        a model that only writes on."""
        most = TOKENS[kind] + self._wanted.thinking_tokens
        draws = kind in ("instructions", "tasks")
        temperature, top_p = (self._wanted.temperature, self._wanted.top_p) if draws else (0.0, 1.0)
        # a model that chats ends by itself, and one that thinks aloud could be stopped in its thoughts
        stops = () if self._desk.teacher.chats else stops
        return Request(f"{place}/{kind}", text, most, stops, temperature, top_p)

    def _text(self, request: Request, reply: Reply, what: str) -> str:
        """What was answered; "" for nothing, which is written down."""
        text = parsing.plain(reply.text)
        if reply.refused or not text:
            self._account.rejects(what, request.key, "refused by the teacher" if reply.refused else "empty answer",
                                  reply.text, reply.refused)  # fmt: skip
            return ""
        return text
