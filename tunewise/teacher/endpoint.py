"""A teacher behind an OpenAI-compatible endpoint: asked over HTTP, many requests at a time, again where that helps."""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any, Literal

import httpx2

from tunewise.errors import UserError
from tunewise.teacher.at_once import Stopped, at_once
from tunewise.teacher.backoff import Backoff, retry_after
from tunewise.teacher.budget import Budget
from tunewise.teacher.exchange import Reply, Request
from tunewise.teacher.responses import Trouble, read
from tunewise.teacher.teacher import Stopping, Unanswered

logger = logging.getLogger(__name__)

OPTIONAL = ("temperature", "top_p", "stop")
"""Fields of a request without which it can be asked as well; some reasoning models refuse them."""
HIDDEN = "***"
SECONDS_TO_TELL = 10.0
"""A wait of so many is told."""


@dataclass(frozen=True)
class Address:
    """Where an endpoint is, and how it is asked."""

    url: str
    """Such as https://HOST/v1, what stands before /chat/completions."""
    model: str = ""
    """What it calls the model; "" takes the one that it serves."""
    api: Literal["chat", "completions"] = "chat"
    concurrency: int = 8
    timeout_seconds: float = 120.0
    """Of silence, after which a request is sent again."""
    retries: int = 6
    backoff_seconds: float = 1.0
    """The first wait before a request is sent again; each further one is twice as long."""


class Endpoint:
    """An OpenAI-compatible endpoint. `key` goes into a header, and nowhere else."""

    def __init__(self, address: Address, key: str = "") -> None:
        self._address, self._key = address, key.strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise UserError("the key of the endpoint holds characters that no key has", "export it again, without them")
        self._client = httpx2.Client(
            base_url=_checked(address.url, has_key=bool(self._key)),
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=address.timeout_seconds,
            limits=httpx2.Limits(max_connections=address.concurrency),
            trust_env=not _is_here(httpx2.URL(address.url).host),  # no proxy leads to this machine
        )
        self._unknown: set[str] = set()
        self.model = address.model or self._only_model()

    @property
    def name(self) -> str:
        """The model's, wherever it is served."""
        return self.model

    @property
    def chats(self) -> bool:
        """Whether it is asked by messages."""
        return self._address.api == "chat"

    def replies(
        self, requests: Sequence[Request], budget: Budget, stopping: Stopping
    ) -> Iterator[tuple[Request, Reply]]:
        """As a Teacher does."""
        backoff = Backoff(self._address.backoff_seconds)

        def ask(request: Request) -> Reply:
            return self._ask(request, budget, backoff)

        return at_once(ask, requests, self._address.concurrency, budget, stopping, backoff.stop)

    def _ask(self, request: Request, budget: Budget, backoff: Backoff) -> Reply:
        """The reply to one request, sent as often as it takes. Stopped where it is not to be sent any more."""
        n_sent, n_failed, seconds = 0, 0, 0.0
        while True:
            if not (backoff.wait(seconds) and budget.sends()):
                raise Stopped
            n_sent += 1
            payload = self._payload(request)
            found, asked = self._send(request, payload)
            if isinstance(found, Reply):
                return replace(found, sent=n_sent)
            if found.field in payload and self._does_without(found.field):
                seconds = 0.0
                continue
            if found.of_request and budget.n_answered:
                return Reply("", sent=n_sent, refused=found.why)
            can_wait = found.passes or (found.unreachable and budget.n_answered > 0)
            if not can_wait or n_failed == self._address.retries:
                times = f", {n_sent} times over" if n_failed else ""
                raise Unanswered(f"{self._address.url} did not answer{times}: {found.why}", found.hint)
            n_failed += 1
            seconds = backoff.seconds(n_failed, asked)
            if asked:
                backoff.close_for(asked)
            if asked >= SECONDS_TO_TELL:
                logger.info("%s asks for a wait of %.0f s", self._address.url, asked)

    def _send(self, request: Request, payload: dict[str, Any]) -> tuple[Reply | Trouble, float]:
        """One sending: what came of it, and the seconds to wait that the endpoint asks for."""
        path = "chat/completions" if self._address.api == "chat" else "completions"
        try:
            # endpoints that know the header answer the same key once, however often it comes
            headers = {"Idempotency-Key": request.digest(self.model)}
            response = self._client.post(path, json=payload, headers=headers)
        except httpx2.TimeoutException:
            return Trouble(f"it was silent for {self._address.timeout_seconds:g} s", passes=True), 0.0
        except httpx2.ConnectError as error:
            hint = "is it running, and is the URL right?"
            return Trouble(f"it cannot be reached: {self._hidden(str(error))}", unreachable=True, hint=hint), 0.0
        except httpx2.RequestError as error:
            return Trouble(f"the connection broke: {self._hidden(str(error))}", passes=True), 0.0
        found = read(response, request)
        if isinstance(found, Reply):
            return replace(found, text=self._hidden(found.text)), 0.0
        return replace(found, why=self._hidden(found.why)), retry_after(response.headers.get("retry-after"))

    def _payload(self, request: Request) -> dict[str, Any]:
        asked: dict[str, Any] = (
            {"messages": [{"role": "user", "content": request.text}]}
            if self._address.api == "chat"
            else {"prompt": request.text}
        )
        length = "max_completion_tokens" if "max_tokens" in self._unknown else "max_tokens"
        fields: dict[str, Any] = {length: request.max_tokens, "temperature": request.temperature}
        if request.temperature:
            fields["top_p"] = request.top_p
        if request.stops:
            fields["stop"] = list(request.stops)
        known = {name: value for name, value in fields.items() if name not in self._unknown}
        return {"model": self.model, **asked, **known}

    def _does_without(self, field: str) -> bool:
        """Whether requests can leave out, or call otherwise, a field that the endpoint refused; from now on they do."""
        if field not in (*OPTIONAL, "max_tokens"):
            return False
        self._unknown.add(field)
        logger.info("%s takes no %s: asked without it", self.model, field)
        return True

    def _only_model(self) -> str:
        """The one model that the endpoint serves; UserError where it serves several."""
        hint = "add --teacher-name MODEL"
        try:
            response = self._client.get("models")
            names = [str(one["id"]) for one in json.loads(response.content)["data"]]
        except httpx2.RequestError as error:
            told = self._hidden(str(error))
            raise UserError(f"{self._address.url} cannot be reached: {told}", "is it running?") from None
        except (ValueError, KeyError, TypeError):
            told = f"{self._address.url}/models answered {response.status_code}"
            raise UserError(f"which model {self._address.url} serves is not known: {told}", hint) from None
        if len(names) != 1:
            listing = ", ".join(sorted(names)[:8]) + (", ..." if len(names) > 8 else "")
            raise UserError(f"{self._address.url} serves {len(names)} models", f"{hint}, one of {listing}")
        return names[0]

    def _hidden(self, text: str) -> str:
        """What an endpoint says may repeat the key."""
        return text.replace(self._key, HIDDEN) if self._key else text


def is_url(teacher: str) -> bool:
    """Whether a teacher is behind an endpoint."""
    return teacher.startswith(("http://", "https://"))


def _checked(address: str, has_key: bool) -> httpx2.URL:
    try:
        url = httpx2.URL(address)
    except httpx2.InvalidURL as error:
        raise UserError(f"{address} is no URL: {error}", "write it like http://localhost:8000/v1") from None
    if not url.host:
        raise UserError(f"{address} names no host", "write it like http://localhost:8000/v1")
    if url.userinfo or url.query:
        told = "put the key into an environment variable, which --key names, and give the bare URL"
        raise UserError(f"the URL of {url.host} holds more than an address, and would be written beside the rows", told)
    if has_key and url.scheme == "http" and not _is_here(url.host):
        logger.warning("the key goes to %s over http, where others can read it", url.host)
    return url


def _is_here(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
