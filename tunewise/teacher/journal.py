"""What a teacher has answered: one line a reply, on the disk before anything is made of it, never changed again."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tunewise import files
from tunewise.errors import UserError
from tunewise.teacher.budget import Budget
from tunewise.teacher.exchange import Reply, Request
from tunewise.teacher.teacher import Stopping, Teacher

FORGET = "name a new folder, or remove the journal to ask everything again"


class Journal:
    """The replies in a file, by the key of their request.

    A run that starts anew takes each of its requests' reply from here, and asks for the others alone. What a killed
    process wrote of a line is dropped: that reply is asked for again.
    """

    def __init__(self, path: Path, budget: Budget) -> None:
        self.path, self._budget = path, budget
        self._known: dict[str, tuple[str, Reply]] = {}
        files.drop_torn_line(path)
        in_vain = 0
        for line, entry in enumerate(files.read_jsonl(path) if path.is_file() else [], start=1):
            if isinstance(entry, dict) and "sent_in_vain" in entry:
                in_vain += int(entry["sent_in_vain"])
                continue
            key, digest, reply = _entry(path, line, entry)
            if key in self._known:
                raise UserError(f"{path}, line {line} answers {key} a second time", FORGET)
            self._known[key] = digest, reply
        budget.spent_before(in_vain + sum(reply.sent for reply in self.replies), self.replies)
        self._told = budget.sent
        """Requests sent of which the file tells."""

    @property
    def replies(self) -> list[Reply]:
        return [reply for _, reply in self._known.values()]

    def known(self, request: Request, teacher: str) -> Reply | None:
        """The reply to a request, where it was answered; UserError where this key was another question."""
        if request.key not in self._known:
            return None
        digest, reply = self._known[request.key]
        if digest != request.digest(teacher):
            raise UserError(f"{self.path} answers another question as {request.key} than is asked now", FORGET)
        return reply

    def add(self, request: Request, reply: Reply, teacher: str) -> None:
        """Write one reply down, durably."""
        digest = request.digest(teacher)
        at = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        entry = {"key": request.key, "asked": digest, **asdict(reply), "at": at}
        files.append_json(self.path, entry, durably=True)
        self._known[request.key] = digest, reply
        self._told += reply.sent

    def settle(self) -> None:
        """Write down how often requests were sent that nobody answered, so that a cap holds over all processes."""
        if self._budget.sent > self._told:
            files.append_json(self.path, {"sent_in_vain": self._budget.sent - self._told}, durably=True)
            self._told = self._budget.sent


def ask_all(
    requests: Sequence[Request], teacher: Teacher, journal: Journal, budget: Budget, stopping: Stopping
) -> list[Reply | None]:
    """The reply to each request, from the journal or the teacher; None where the budget or `stopping` was before it."""
    missing = [request for request in requests if journal.known(request, teacher.name) is None]
    try:
        if missing:
            for request, reply in teacher.replies(missing, budget, stopping):
                journal.add(request, reply, teacher.name)
    finally:
        journal.settle()
    return [journal.known(request, teacher.name) for request in requests]


def _entry(path: Path, line: int, entry: object) -> tuple[str, str, Reply]:
    try:
        fields = dict(entry)  # ty: ignore
        fields.pop("at")
        return fields.pop("key"), fields.pop("asked"), Reply(**fields)
    except (TypeError, ValueError, KeyError):
        raise UserError(f"{path}, line {line} is no line of a journal", FORGET) from None
