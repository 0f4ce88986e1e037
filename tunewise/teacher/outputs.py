"""Distillation: a teacher answers prompts that are there already."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tunewise.data.readers import columns, read_rows
from tunewise.errors import UserError
from tunewise.teacher import filters, parsing, prompts
from tunewise.teacher.account import Account
from tunewise.teacher.desk import Desk
from tunewise.teacher.exchange import Request
from tunewise.teacher.rows import Row
from tunewise.teacher.settings import Wanted

ASKED, GIVEN = ("instruction", "prompt", "question", "query", "text"), ("input", "context")
A_TIME, TOKENS = 256, 2048


@dataclass(frozen=True)
class Prompt:
    """What the teacher is to answer, and the line it stands on."""

    line: int
    instruction: str
    input: str


def read_prompts(path: str | Path) -> list[Prompt]:
    """The prompts of a file: a column such as instruction, prompt or question, and perhaps input or context."""
    rows = read_rows(path)
    known = columns(rows)
    asked, given = (next((name for name in names if name in known), "") for names in (ASKED, GIVEN))
    if not asked:
        raise UserError(f"{path} has none of the columns {', '.join(ASKED)}", f"rename one of {', '.join(known)}")
    return [
        Prompt(row.line, str(row.fields.get(asked, "")).strip(), str(row.fields.get(given, "")).strip()) for row in rows
    ]


class Outputs:
    """The rows of a run, made of what its desk answers; the same prompt is asked once."""

    def __init__(self, asked: Sequence[Prompt], wanted: Wanted, desk: Desk, account: Account) -> None:
        self._asked, self._wanted, self._desk, self._account = asked, wanted, desk, account

    def run(self, n: int) -> list[Row]:
        """A row for each of the first `n` prompts that is answered well, or for those before the desk was closed."""
        known: set[tuple[str, str]] = set()
        rows: list[Row] = []
        for start in range(0, min(n, len(self._asked)), A_TIME):
            if not self._desk.is_open:
                break
            asked = [one for one in self._asked[start : min(n, start + A_TIME)] if self._is_new(one, known)]
            requests = [self._request(one) for one in asked]
            for one, request, reply in zip(asked, requests, self._desk.ask(requests)):
                output = parsing.without_thought(reply.text)
                why = "refused by the teacher" if reply.refused else "answer cut short" if reply.was_cut else ""
                why = why or filters.why_no_output(one.instruction, one.input, output)
                if why:
                    self._account.rejects("outputs", request.key, why, output, reply.refused)
                    continue
                self._account.keeps("outputs")
                rows.append(Row(one.instruction, one.input, output, self._desk.teacher.name, request.key))
            self._desk.kept(len(rows))
        return rows

    def _is_new(self, one: Prompt, known: set[tuple[str, str]]) -> bool:
        why = "" if one.instruction else "empty prompt"
        why = why or ("the same prompt twice" if (one.instruction, one.input) in known else "")
        if why:
            self._account.rejects("outputs", f"line/{one.line}", why, one.instruction)
        known.add((one.instruction, one.input))
        return not why

    def _request(self, one: Prompt) -> Request:
        chats = self._desk.teacher.chats
        text = prompts.answer(one.instruction, one.input, chats)
        stops = () if chats else ("\nHuman:",)
        return Request(f"line/{one.line}", text, TOKENS + self._wanted.thinking_tokens, stops)
