"""What became of everything that a teacher proposed: kept, or rejected for a reason. Nothing is dropped silently."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tunewise.teacher.budget import Budget
from tunewise.teacher.exchange import Reply


@dataclass
class Account:
    """Counts of proposals, and the rejected ones with their reason."""

    kept: Counter[str] = field(default_factory=Counter)
    """By what was proposed: instructions, examples."""
    rejected: list[dict[str, str]] = field(default_factory=list)

    def keeps(self, what: str) -> None:
        self.kept[what] += 1

    def rejects(self, what: str, request: str, why: str, text: str, detail: str = "") -> None:
        """Write down what was not kept."""
        entry = {"what": what, "why": why, "request": request, "text": text}
        self.rejected.append(entry | ({"detail": detail} if detail else {}))

    def table(self) -> dict[str, Any]:
        """For each kind of proposal: how many there were, how many are kept, and why the others are not."""
        found = {}
        for what in dict.fromkeys([*self.kept, *(entry["what"] for entry in self.rejected)]):
            reasons = Counter(entry["why"] for entry in self.rejected if entry["what"] == what)
            n_proposed = self.kept[what] + reasons.total()
            found[what] = {
                "proposed": n_proposed,
                "kept": self.kept[what],
                "acceptance": round(self.kept[what] / n_proposed, 4),
                "rejected": dict(reasons.most_common()),
            }
        return found


@dataclass(frozen=True)
class Prices:
    """What a million tokens cost, in whatever currency."""

    read: float = 0.0
    written: float = 0.0

    def of(self, budget: Budget) -> float:
        return (self.read * budget.prompt_tokens + self.written * budget.completion_tokens) / 1e6


def costs(budget: Budget, replies: list[Reply], prices: Prices) -> dict[str, Any]:
    """What a run has cost up to now, over all processes that worked on it."""
    return {
        "requests": budget.sent,
        "answered": budget.n_answered,
        "sent_again": budget.sent - budget.n_answered,
        "prompt_tokens": budget.prompt_tokens,
        "completion_tokens": budget.completion_tokens,
        "tokens_estimated": any(reply.estimated for reply in replies),
        "cost": round(prices.of(budget), 6) if prices != Prices() else None,
    }
