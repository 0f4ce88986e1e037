"""What a client is told in place of an answer, as OpenAI's API tells it."""

from typing import Any

from tunewise.errors import UserError, nearest

INVALID, UNAUTHORISED, FAILED = "invalid_request_error", "authentication_error", "server_error"
TOO_LONG, OVERLOADED = "context_length_exceeded", "server_overloaded"
SECONDS_TO_RETRY = 1
"""After which one who was sent away as too many waited may come again."""


class Refusal(Exception):
    """An error with a status of HTTP; `param` is the field that it is about, `code` what programs look for."""

    def __init__(
        self, message: str, *, status: int = 400, kind: str = INVALID, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.message, self.status, self.kind, self.param, self.code = message, status, kind, param, code
        self.headers = {"retry-after": str(SECONDS_TO_RETRY)} if code == OVERLOADED else {}

    def body(self) -> dict[str, Any]:
        """What is sent."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def refusal_of(error: UserError, param: str | None = None) -> Refusal:
    """The same in these words, on one line."""
    return Refusal("; ".join(filter(None, [error.message, error.hint])), param=param)


def no_such_model(name: str, known: list[str]) -> Refusal:
    """The error for a model that nobody here is called."""
    guess = nearest(name, known)
    meant = f"did you mean {guess!r}? " if guess else ""
    return Refusal(
        f"no model named {name!r}; {meant}known: {', '.join(known)}", status=404, param="model", code="model_not_found"
    )
