"""What an OpenAI-compatible endpoint sent back: a reply, a reason to ask again, or a reason not to."""

import json
from dataclasses import dataclass
from typing import Any

from httpx2 import Response

from tunewise.teacher.exchange import Reply, Request

AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
"""Statuses of troubles that pass."""
OF_THE_REQUEST = frozenset({400, 413, 422})
"""Statuses that tell of this request, not of the endpoint."""
OUT_OF_MONEY = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")


@dataclass(frozen=True)
class Trouble:
    """Why a request was not answered."""

    why: str
    passes: bool = False
    """Asking again may help."""
    of_request: bool = False
    """Another request may be answered."""
    unreachable: bool = False
    """Nothing listens there, or nothing does any more."""
    field: str = ""
    """The field of the request that the endpoint does not know."""
    hint: str = ""


def read(response: Response, request: Request) -> Reply | Trouble:
    """The reply in a response, or what is wrong with it."""
    if response.status_code == 200:
        return _reply(response, request)
    told, code, field = _told(response)
    why = f"it answered {response.status_code}{f': {told}' if told else ''}"
    match response.status_code:
        case 402:
            return Trouble(why, hint="look at the account's balance")
        case 401 | 403:
            return Trouble(why, hint="put a key that is valid there into the environment variable that --key names")
        case 404 | 405:
            return Trouble(why, hint="the URL usually ends in /v1; --teacher-name must be a model that it serves")
        case 429 if code in OUT_OF_MONEY:
            return Trouble(why, hint="look at the account's balance")
        case status if status in AGAIN:
            return Trouble(why, passes=True)
        case status if status in OF_THE_REQUEST:
            return Trouble(why, of_request=True, field=field, hint="what it says is about the request itself")
        case status if 300 <= status < 400:
            return Trouble(why, hint=f"give the URL it leads to: {response.headers.get('location', '')}")
    return Trouble(why, hint="look into the log of the endpoint")


def _reply(response: Response, request: Request) -> Reply | Trouble:
    try:
        body = json.loads(response.content)
    except ValueError:
        kind = response.headers.get("content-type", "").partition(";")[0] or "something"
        return Trouble(f"it answered {kind} that is no JSON: {_start(response.text)}", passes=True)
    choices = body.get("choices") if isinstance(body, dict) else None
    if not (isinstance(choices, list) and choices and isinstance(choices[0], dict)):
        return Trouble(f"it answered without choices: {_start(response.text)}", passes=True)
    text, finish = _text(choices[0]), choices[0].get("finish_reason")
    usage = body.get("usage") if isinstance(body.get("usage"), dict) else {}
    told = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    counted = [n for n in told if isinstance(n, int) and n >= 0]
    if estimated := len(counted) < len(told):
        counted = [estimate(request.text), estimate(text)]
    return Reply(
        text=text,
        prompt_tokens=counted[0],
        completion_tokens=counted[1],
        was_cut=finish == "length",
        refused="the endpoint filtered the answer" if finish == "content_filter" else "",
        estimated=estimated,
    )


def estimate(text: str) -> int:
    """Tokens of a text that nobody counted: one for four bytes."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // 4)


def _text(choice: dict[str, Any]) -> str:
    """The text of a choice of /chat/completions or /completions; "" where it has none."""
    message = choice.get("message")
    content = message.get("content") if isinstance(message, dict) else choice.get("text")
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    # half a surrogate pair is no character, and could not be written
    return content.encode("utf-8", "replace").decode() if isinstance(content, str) else ""


def _told(response: Response) -> tuple[str, str, str]:
    """Message, code and field of an error as OpenAI words it, vLLM or anybody else."""
    try:
        body = json.loads(response.content)
    except ValueError:
        return _start(response.text), "", ""
    error = body.get("error", body) if isinstance(body, dict) else body
    if not isinstance(error, dict):
        return _start(str(error)), "", ""
    message = error.get("message") or error.get("detail") or ""
    return _start(str(message)), str(error.get("code") or error.get("type") or ""), str(error.get("param") or "")


def _start(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 200 else f"{line[:197]}..."
