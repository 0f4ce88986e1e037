"""The routes: models, chats and completions; who may ask, how much, and how it is told what is wrong."""

import asyncio
import hmac
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Header
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError, StarletteHTTPException
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import JSONResponse, Response, StreamingResponse

from tunewise.listening import names_of
from tunewise.run.speakers import BASE, Speakers
from tunewise.serve.body import BodyLimit
from tunewise.serve.fields import Chat, Completion
from tunewise.serve.job import Done, Event, Job, Piece
from tunewise.serve.refusal import FAILED, INVALID, UNAUTHORISED, Refusal, no_such_model
from tunewise.serve.replies import Reply, sent
from tunewise.serve.scheduler import Scheduler

BEARER = "bearer "
MOST_BYTES = 4 << 20
"""Of the body of a request."""


def app_of(speakers: Speakers, scheduler: Scheduler, *, host: str, api_key: str = "") -> FastAPI:
    """Everything that is served. On loopback no page of a browser reaches it under a name of its own."""
    app = FastAPI(title="tunewise", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(BodyLimit, most_bytes=MOST_BYTES)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=names_of(host), www_redirect=False)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(StarletteHTTPException, _of_http)
    app.add_exception_handler(Exception, _failed)
    app.add_api_route("/health", lambda: _health(speakers, scheduler))
    app.include_router(_v1(speakers, scheduler), prefix="/v1", dependencies=[Depends(_key_check(api_key))])
    return app


def _v1(speakers: Speakers, scheduler: Scheduler) -> APIRouter:
    v1 = APIRouter()
    models = {each["id"]: each for each in _models(speakers)}

    @v1.get("/models")
    def listed() -> dict[str, Any]:
        return {"object": "list", "data": [*models.values()]}

    @v1.get("/models/{name:path}")
    def model(name: str) -> dict[str, Any]:
        if name not in models:
            raise no_such_model(name, [*models])
        return models[name]

    @v1.post("/chat/completions", response_model=None)
    async def chat(http: HttpRequest, request: Chat) -> Response:
        return await _answered(scheduler, http, request)

    @v1.post("/completions", response_model=None)
    async def complete(http: HttpRequest, request: Completion) -> Response:
        return await _answered(scheduler, http, request)

    return v1


def _models(speakers: Speakers) -> list[dict[str, Any]]:
    created, root = int(time.time()), speakers.base.name
    return [
        {
            "id": each.name, "object": "model", "created": created, "owned_by": "tunewise", "root": root,
            "parent": None if each.name == BASE else BASE, "method": each.tuned.method.name,
        }
        for each in speakers.each
    ]  # fmt: skip


def _health(speakers: Speakers, scheduler: Scheduler) -> Response:
    told = {"status": "ok" if scheduler.is_alive else "ended", "models": [each.name for each in speakers.each]}
    counts = {"running": scheduler.n_running, "waiting": scheduler.n_waiting}
    return JSONResponse({**told, **counts}, status_code=200 if scheduler.is_alive else 503)


def _key_check(api_key: str) -> Any:
    def check(authorization: str = Header("")) -> None:
        given = authorization[len(BEARER) :] if authorization.lower().startswith(BEARER) else authorization
        if api_key and not hmac.compare_digest(given.encode(), api_key.encode()):
            raise Refusal("the API key is missing or wrong", status=401, kind=UNAUTHORISED, code="invalid_api_key")

    return check


async def _answered(scheduler: Scheduler, http: HttpRequest, request: Chat | Completion) -> Response:
    """The answer, whole or as it is written. What refuses it is raised before anything is sent."""
    reply, events = Reply(request), _events(scheduler, http, request)
    if request.stream:
        first = await anext(events)
        return StreamingResponse(_chunks(reply, first, events), media_type="text/event-stream")
    pieces: list[Piece] = []
    async for event in events:
        if isinstance(event, Done):
            return JSONResponse(reply.whole(pieces, event))
        pieces.append(event)
    raise AssertionError("an answer has no end")


async def _chunks(reply: Reply, first: Piece | Done, events: AsyncGenerator[Piece | Done, None]) -> AsyncIterator[str]:
    try:
        for chunk in reply.chunks(first):
            yield chunk
        async for event in events:
            for chunk in reply.chunks(event):
                yield chunk
    except Refusal as refusal:
        yield sent(refusal.body())
    finally:
        await events.aclose()


async def _events(
    scheduler: Scheduler, http: HttpRequest, request: Chat | Completion
) -> AsyncGenerator[Piece | Done, None]:
    """What is told of a request until it is done. Where its client goes away, it is given up."""
    heard: asyncio.Queue[Event] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def tell(event: Event) -> None:
        with suppress(RuntimeError):  # of a loop that has ended
            loop.call_soon_threadsafe(heard.put_nowait, event)

    job = Job(request, tell)
    scheduler.ask(job)
    gone = asyncio.ensure_future(_gone(http))
    coming = asyncio.ensure_future(heard.get())
    try:
        while True:
            await asyncio.wait({coming, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                raise Refusal("the client has gone", status=499, kind=INVALID)
            event = coming.result()
            if isinstance(event, Refusal):
                raise event
            yield event
            if isinstance(event, Done):
                return
            coming = asyncio.ensure_future(heard.get())
    finally:
        gone.cancel()
        coming.cancel()
        job.give_up()


async def _gone(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


async def _refused(_: HttpRequest, refusal: Any) -> Response:
    return JSONResponse(refusal.body(), status_code=refusal.status, headers=refusal.headers)


async def _invalid(http: HttpRequest, error: Any) -> Response:
    errors = error.errors()
    # of a field that may be a text or a list, what is wrong with the one that was given
    first = next((one for one in errors if one["type"] not in ("string_type", "list_type")), errors[0])
    loc = first["loc"][1:]
    named = ".".join(str(part) for part in loc if part == loc[0] or isinstance(part, int))
    if first["type"] == "json_invalid" or not named:
        return await _refused(http, Refusal("the body is no JSON object (is its content-type application/json?)"))
    return await _refused(http, Refusal(f"{named}: {first['msg']}", param=named))


async def _of_http(http: HttpRequest, error: Any) -> Response:
    return await _refused(http, Refusal(str(error.detail), status=error.status_code))


async def _failed(http: HttpRequest, error: Exception) -> Response:
    return await _refused(http, Refusal(f"{type(error).__name__}: {error}", status=500, kind=FAILED))
