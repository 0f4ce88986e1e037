"""The table of all checks, and the examination of a task by each of them."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from tunewise.data.doctor import account, answers, duplicates, labels, leaks, lengths, text, tokens
from tunewise.data.doctor.account import Account, account_of
from tunewise.data.doctor.finding import SEVERITIES, Finding, Severity, by_severity
from tunewise.data.doctor.lengths import Lengths, lengths_of
from tunewise.data.doctor.rows import Rows


class Check(Protocol):
    """A function whose name is the code of what it finds, and whose docstring says what it looks for."""

    __name__: str

    def __call__(self, found: Rows, /) -> Iterator[Finding]: ...


CHECKS: dict[str, tuple[Check, ...]] = {
    "tokens": (
        tokens.all_labels_masked, tokens.end_token_untrained, tokens.doubled_begin_token,
        tokens.special_tokens_in_text, tokens.unknown_tokens, tokens.template_differs, tokens.pad_is_end,
    ),
    "lengths": (lengths.truncated_rows, lengths.held_out_too_long),
    "rows": (account.rejected_rows, lengths.absurdly_long_rows),
    "leaks": (leaks.leaked_rows, leaks.shared_passages, leaks.leaked_nearly),
    "duplicates": (
        duplicates.duplicates, duplicates.near_duplicates, duplicates.contradictions, duplicates.several_answers,
    ),
    "labels": (
        labels.one_class, labels.unseen_labels, labels.labels_spelt_alike, labels.label_imbalance, labels.rare_labels,
    ),
    "answers": (
        answers.one_prompt, answers.one_answer, answers.answer_in_prompt, answers.empty_answers,
        answers.repeated_answers,
    ),
    "text": (
        text.control_characters, text.replacement_characters, text.misread_encoding, text.unseen_characters,
        text.mixed_scripts, text.mixed_normal_forms, text.markup,
    ),
}  # fmt: skip
OF_TOKENS = ("tokens", "lengths")


@dataclass(frozen=True)
class Examination:
    """What was found of a task: the account of its rows, findings with errors first, lengths where a base reads it."""

    data: str
    model: str
    detected: str
    account: Account
    findings: tuple[Finding, ...]
    lengths: Lengths | None

    def of(self, severity: Severity) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == severity]

    @property
    def is_fit(self) -> bool:
        """Whether it can be trained on: no finding is an error, and the account adds up."""
        return not self.of("error") and self.account.proved

    def told(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "data": self.data,
            "model": self.model,
            "fit": self.is_fit,
            "counts": {severity: len(self.of(severity)) for severity in SEVERITIES},
            "detected": self.detected,
            "account": self.account.told(),
            "findings": [asdict(finding) for finding in self.findings],
            "lengths": None if self.lengths is None else self.lengths.told(),
            "checks": dict(described()),
        }


def code_of(check: Check) -> str:
    """The code of the findings that a check makes: its name."""
    return check.__name__.replace("_", "-")


def described() -> list[tuple[str, str]]:
    """(code, what is looked for) of every check."""
    return [(code_of(check), (check.__doc__ or "").strip()) for of in CHECKS.values() for check in of]


def examine(rows: Rows, families: Sequence[str] = tuple(CHECKS)) -> Examination:
    """Look at a task with every check of these families."""
    wanted = [name for name in families if rows.reading is not None or name not in OF_TOKENS]
    found = [finding for name in wanted for check in CHECKS[name] for finding in check(rows)]
    return Examination(
        data=rows.task.source,
        model="" if rows.reading is None else rows.reading.model,
        detected=rows.task.ledger.detected,
        account=account_of(rows),
        findings=tuple(by_severity(found)),
        lengths=None if rows.reading is None else lengths_of(rows.reading),
    )
