"""The page as a server on this machine, until Ctrl-C."""

import socket
from contextlib import suppress

import uvicorn
from fastapi import FastAPI
from fastapi.responses import FileResponse
from gradio import mount_gradio_app

from tunewise.studio.page import Page
from tunewise.studio.showing import Heading
from tunewise.studio.theme import STYLE, theme

SECONDS_TO_CLOSE = 1
"""That tabs which are still open are given: each holds a connection for good."""


def app_of(page: Page, heading: Heading) -> FastAPI:
    """The page at /, and the report of the comparison at /report. Nothing is fetched from elsewhere, or told there."""
    app = FastAPI(title=heading.title, docs_url=None, redoc_url=None, openapi_url=None)
    if heading.report is not None:
        app.add_api_route("/report", lambda: FileResponse(str(heading.report), media_type="text/html"))
    return mount_gradio_app(
        app, page.blocks, path="/", footer_links=[], run_history=False,
        show_error=True, ssr_mode=False, pwa=False, mcp_server=False, theme=theme(), css=STYLE,
    )  # fmt: skip


def serve(app: FastAPI, at: socket.socket) -> None:
    """Answer until Ctrl-C."""
    # what goes wrong in the page gradio tells; uvicorn would tell that it closes the tabs which are still open
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=SECONDS_TO_CLOSE))
    with suppress(KeyboardInterrupt):
        server.run(sockets=[at])
