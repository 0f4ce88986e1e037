"""The page as a server on this machine, until Ctrl-C."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import uvicorn
from fastapi import FastAPI
from fastapi.responses import FileResponse
from gradio import mount_gradio_app

from tunewise.errors import UserError
from tunewise.studio.page import Page
from tunewise.studio.showing import Heading
from tunewise.studio.theme import STYLE, theme

SECONDS_TO_CLOSE = 1
"""That tabs which are still open are given: each holds a connection for good."""


def app_of(page: Page, heading: Heading, host: str, port: int) -> FastAPI:
    """The page at /, and the report of the comparison at /report. Nothing is fetched from elsewhere, or told there."""
    app = FastAPI(title=heading.title, docs_url=None, redoc_url=None, openapi_url=None)
    if heading.report is not None:
        app.add_api_route("/report", lambda: FileResponse(str(heading.report), media_type="text/html"))
    return mount_gradio_app(
        app, page.blocks, path="/", server_name=host, server_port=port, footer_links=[], run_history=False,
        show_error=True, ssr_mode=False, pwa=False, mcp_server=False, theme=theme(), css=STYLE,
    )  # fmt: skip


@contextmanager
def bound(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens there, on any free port for 0; UserError where that cannot be."""
    try:
        found = socket.create_server((host, port))
    except OSError as error:
        raise UserError(f"cannot listen at {host}:{port}: {error.strerror or error}", "choose another --port") from None
    with found:
        yield found


def serve(app: FastAPI, listening: socket.socket) -> None:
    """Answer until Ctrl-C."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=SECONDS_TO_CLOSE))
    with suppress(KeyboardInterrupt):
        server.run(sockets=[listening])
