"""The server: runs and adapters loaded, asked by one thread, and heard at an address of this machine."""

import logging
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewise.data.in_memory import Data
from tunewise.errors import UserError
from tunewise.listening import is_loopback, listening, url_of
from tunewise.run.speakers import Speakers, speakers_of
from tunewise.serve.questions import refuse_unserved
from tunewise.serve.scheduler import Scheduler

if TYPE_CHECKING:
    import uvicorn

logger = logging.getLogger(__name__)

INSTALL = "pip install 'tunewise[serve]'"
SECONDS_TO_END = 2
"""That connections are given which are still open."""


@dataclass(frozen=True)
class ServerSettings:
    """Where the server listens, whom it lets in, and how much it does at a time."""

    host: str = "127.0.0.1"
    port: int = 0
    """0 takes a free one."""
    api_key: str = ""
    """What clients have to send; "" lets everyone in who reaches it."""
    at_once: int = 32
    """Answers that are written in one batch."""
    cache_tokens: int = 32768
    """Of all answers in a batch together, prompts included, where they are packed; memory is taken as it is needed."""
    most_waiting: int = 1024
    """Answers that wait for a place; while there are so many, nobody else is let in, and is told to come again."""

    def __post_init__(self) -> None:
        least_one = {"at_once": self.at_once, "cache_tokens": self.cache_tokens, "most_waiting": self.most_waiting}
        for name, told in least_one.items():
            if told < 1:
                raise UserError(f"{name} is {told}", "set it to 1 at least")


class Server:
    """Ready to answer, inside `opened`."""

    def __init__(self, speakers: Speakers, scheduler: Scheduler, listening: socket.socket, http: "uvicorn.Server"):
        self._speakers, self._scheduler, self._listening, self._http = speakers, scheduler, listening, http

    @property
    def names(self) -> tuple[str, ...]:
        """What is served, as requests call it."""
        return tuple(speaker.name for speaker in self._speakers.each)

    @property
    def url(self) -> str:
        """What stands before /chat/completions."""
        return f"{url_of(self._listening)}/v1"

    def run(self) -> None:
        """Answer until Ctrl-C, or until it is ended."""
        with suppress(KeyboardInterrupt):
            self._http.run(sockets=[self._listening])

    def end(self) -> None:
        """Break off what is being answered, and answer no more."""
        self._scheduler.close()
        self._http.should_exit = True


@contextmanager
def serving(
    targets: Mapping[str, str | Path],
    *,
    model: str | None = None,
    data: Data | None = None,
    free: bool = False,
    overrides: Mapping[str, Any] | None = None,
    settings: ServerSettings = ServerSettings(),
) -> Iterator[Server]:
    """`tunewise serve`, in a thread of its own inside the block: the runs and adapters of `targets`, by these names.

    They are asked as `showcase` asks them. UserError as there, and as in `opened`.
    """
    loaded = partial(speakers_of, targets, model=model, data=data, free=free, overrides=overrides)
    with opened(loaded, settings) as server:
        thread = threading.Thread(target=server.run, name="http", daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.end()
            thread.join()


@contextmanager
def opened(loaded: Callable[[], Speakers], settings: ServerSettings) -> Iterator[Server]:
    """A server of those that are `loaded` once it has its address, before it answers anyone: `run` does that.

    UserError for what is not served, and for an address that is not to be had."""
    if find_spec("fastapi") is None or find_spec("uvicorn") is None:
        raise UserError("a server needs fastapi and uvicorn, which are not installed", INSTALL)
    import uvicorn

    from tunewise.serve.app import app_of

    if not is_loopback(settings.host) and not settings.api_key:
        logger.warning(
            "everyone who reaches %s is answered; --api-key, or TUNEWISE_API_KEY, asks for a key", settings.host
        )
    with listening(settings.host, settings.port) as at:
        speakers = loaded()
        refuse_unserved(speakers)
        scheduler = Scheduler(speakers, settings.at_once, settings.cache_tokens, settings.most_waiting)
        app = app_of(speakers, scheduler, host=settings.host, api_key=settings.api_key)

        class Http(uvicorn.Server):
            async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
                scheduler.close()  # what is being answered ends, and its connections with it
                await super().shutdown(sockets)

            async def on_tick(self, counter: int) -> bool:
                return await super().on_tick(counter) or not scheduler.is_alive

        told = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=SECONDS_TO_END)
        with scheduler.started():
            yield Server(speakers, scheduler, at, Http(told))
