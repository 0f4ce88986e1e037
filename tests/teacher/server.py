"""An OpenAI-compatible server on loopback that answers by rule and misbehaves by rule."""

import contextlib
import json
import random
import re
import socket
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any, Self

from tests.loopback import Loopback

Answer = Callable[[str], str]
Fault = Callable[[str, int], str]
"""The digest of a request and how often it came before -> the fault to commit, or "" for an answer."""

FAULTS = ("slow", "429", "500", "503", "cut", "malformed", "no choices", "html", "reset")
SECONDS_OF_SLOW = 3.0


def no_fault(digest: str, arrival: int) -> str:
    return ""


class Server(Loopback):
    """Use it as a context manager; `url` is what stands before /chat/completions."""

    def __init__(self, answer: Answer, fault: Fault = no_fault, **extras: Any) -> None:
        self.answer, self.fault, self.extras = answer, fault, extras
        self.arrived: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.payloads: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.under_way = self.most_under_way = 0
        self.lock = threading.Lock()
        self.released = threading.Event()

    def __enter__(self) -> Self:
        outer = self

        class Handler(_Handler):
            server_of_test = outer

        self.url = f"http://127.0.0.1:{self.start(Handler)}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self.stop()

    @property
    def n_arrived(self) -> int:
        return self.arrived.total()


class _Handler(BaseHTTPRequestHandler):
    server_of_test: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None: ...

    def do_GET(self) -> None:
        self._send(200, {"data": [{"id": name} for name in self.server_of_test.extras.get("models", ["writer"])]})

    def do_POST(self) -> None:
        own = self.server_of_test
        payload = json.loads(self.rfile.read(int(self.headers["content-length"])))
        digest = self.headers["idempotency-key"]
        with own.lock:
            arrival, own.arrived[digest] = own.arrived[digest], own.arrived[digest] + 1
            own.payloads.append(payload)
            own.headers.append(dict(self.headers))
        fault = own.fault(digest, arrival)
        with own.lock:
            own.faults[fault] += bool(fault)
        with contextlib.suppress(ConnectionError):
            self._misbehave(fault) if fault else self._answer(payload, digest)

    def _answer(self, payload: dict[str, Any], digest: str) -> None:
        own = self.server_of_test
        chats = self.path.endswith("/chat/completions")
        asked = payload["messages"][0]["content"] if chats else payload["prompt"]
        with own.lock:
            own.under_way += 1
            own.most_under_way = max(own.most_under_way, own.under_way)
        text = own.answer(asked)
        with own.lock:
            own.under_way -= 1
        if "body" in own.extras:
            self._send(200, own.extras["body"])
            return
        usage = {"prompt_tokens": len(asked.split()), "completion_tokens": len(text.split())}
        choice = {"message": {"role": "assistant", "content": text}} if chats else {"text": text}
        self._send(200, {"choices": [choice | {"finish_reason": "stop"}], "usage": usage})
        with own.lock:
            own.answered[digest] += 1

    def _misbehave(self, fault: str) -> None:
        match fault:
            case "hang":
                self.server_of_test.released.wait(30)
                self.close_connection = True
            case "slow":
                self.server_of_test.released.wait(SECONDS_OF_SLOW)
                self.close_connection = True
            case "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                self.close_connection = True
            case "cut":
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", "1000")
                self.end_headers()
                self.wfile.write(b'{"choices": [{"message": {"content": "half of')
                self.close_connection = True
            case "malformed":
                self._send(200, b'{"choices": [{"message": {"content": ')
            case "no choices":
                self._send(200, {"choices": []})
            case "html":
                self._send(200, b"<html><body>Gateway</body></html>", kind="text/html")
            case "429":
                self._send(429, {"error": {"message": "slow down", "code": "rate_limit"}}, wait="0.05")
            case "500" | "503":
                self._send(int(fault), {"error": {"message": "no"}})
            case _:  # "!404 {...}"
                self._send(int(fault[1:4]), {"error": json.loads(fault[5:])})

    def _send(self, status: int, body: object, kind: str = "application/json", wait: str = "") -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(raw)))
        if wait:
            self.send_header("retry-after", wait)
        self.end_headers()
        self.wfile.write(raw)


VERBS = "Write Explain List Compare Invent Shorten Describe Answer Translate Correct Continue Rank Judge Name".split()
WORDS = (
    "boat river letter market winter song teacher garden bridge soup lamp story friend hill recipe museum cloud horse "
    "journey secret window ladder village promise island thunder mirror candle harbour orchard shepherd compass "
    "lantern violin meadow kettle parcel sparrow castle pepper"
).split()


def writes(asked: str) -> str:
    """The answers of a teacher that is good most of the time; the same to the same question."""
    drawn = random.Random(asked)
    if asked.endswith("Answer:"):
        return drawn.choice(["yes", "No.", "no"])
    if asked.endswith("Label:"):
        return "".join(f"Label: {label}\nInput: the {drawn.choice(WORDS)} is {label}\n" for label in ("good", "bad"))
    if asked.endswith("Input:"):
        return f"the {drawn.choice(WORDS)} and the {drawn.choice(WORDS)}\nOutput: a {' '.join(drawn.sample(WORDS, 4))}"
    first = int(re.findall(r"Task (\d+):", asked)[-1])
    return "\n".join(f"Task {first + i}: {_instruction(drawn)}" for i in range(8))


def _instruction(drawn: random.Random) -> str:
    if drawn.random() < 0.2:
        return drawn.choice(["Sing.", "Draw a picture of the sea.", "Write a poem about the old boat.", "..."])
    return f"{drawn.choice(VERBS)} {' '.join(drawn.sample(WORDS, drawn.randint(4, 8)))}."


def faults_at_first(digest: str, arrival: int) -> str:
    """Two requests of three meet one fault or two before they are answered; slow ones, which take a second, are few."""
    n_faults, drawn = random.Random(digest).randint(0, 2), random.Random(f"{digest} {arrival}")
    return "" if arrival >= n_faults else drawn.choices(FAULTS, [0.2] + [1] * (len(FAULTS) - 1))[0]
