"""How long the body of a request may be, and what is answered to a longer one."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi.responses import JSONResponse

from tunewise.serve.refusal import Refusal

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class BodyLimit:
    """Refuses, in OpenAI's form, a body that is longer than it may be: by its length where that is told, and else by
    what has come of it. (FastAPI's own `max_body_size` answers in plain text.)"""

    def __init__(self, app: App, most_bytes: int) -> None:
        self._app, self._most_bytes = app, most_bytes

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        came: list[Message] = []
        told = next((value for name, value in scope["headers"] if name == b"content-length"), None)
        n_bytes = int(told) if told is not None else await self._read(receive, came)
        if n_bytes > self._most_bytes:
            refusal = Refusal(f"the body of a request may have {self._most_bytes:,} bytes; send less", status=413)
            await JSONResponse(refusal.body(), status_code=refusal.status)(scope, receive, send)
            return

        async def again() -> Message:
            return came.pop(0) if came else await receive()

        await self._app(scope, again, send)

    async def _read(self, receive: Receive, came: list[Message]) -> int:
        """Put what comes into `came`, until all is there or more than there may be; its bytes."""
        n_bytes, is_more = 0, True
        while is_more and n_bytes <= self._most_bytes:
            came.append(await receive())
            n_bytes += len(came[-1].get("body", b""))
            is_more = came[-1].get("more_body", False)
        return n_bytes
