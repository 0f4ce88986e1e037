"""The page as a server on this machine, until Ctrl-C."""

import socket
from contextlib import suppress

import uvicorn
from fastapi import FastAPI
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import FileResponse
from gradio import mount_gradio_app

from tunewise.listening import names_of
from tunewise.studio.page import Page
from tunewise.studio.showing import Heading
from tunewise.studio.sitting import Sitting
from tunewise.studio.theme import STYLE, theme

SECONDS_TO_CLOSE = 1
"""That tabs which are still open are given: each holds a connection for good."""


def app_of(page: Page, heading: Heading, host: str) -> FastAPI:
    """The page at /, and the report of the comparison at /report. Nothing is fetched from elsewhere, or told there; on
    loopback no other page of a browser reaches it, and nobody uploads anything but images where these are asked."""
    app = FastAPI(title=heading.title, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=names_of(host), www_redirect=False)
    if heading.report is not None:
        app.add_api_route("/report", lambda: FileResponse(str(heading.report), media_type="text/html"))
    page.blocks.has_launched = True  # else gradio reads any file of this machine that a client names
    return mount_gradio_app(
        app, page.blocks, path="/", footer_links=[], run_history=False, show_error=True, ssr_mode=False, pwa=False,
        max_file_size=page.most_bytes, mcp_server=False, theme=theme(), css=STYLE,
    )  # fmt: skip


def serve(app: FastAPI, at: socket.socket, sitting: Sitting) -> None:
    """Answer until Ctrl-C, which breaks off what is being written."""

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            sitting.end()
            await super().shutdown(sockets)

    # what goes wrong in the page gradio tells; uvicorn would tell that it closes the tabs which are still open
    told = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=SECONDS_TO_CLOSE)
    with suppress(KeyboardInterrupt):
        Server(told).run(sockets=[at])
