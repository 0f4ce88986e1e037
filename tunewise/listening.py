"""A socket at an address of this machine, for whoever serves something there."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from tunewise.errors import UserError

WAITING = 512
"""Connections that may wait to be accepted."""


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens there, on a free port for 0; UserError where that cannot be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        found = socket.create_server((host, port), family=family, backlog=WAITING)
    except OSError as error:
        why = str(error.strerror or error).partition(" (while")[0]
        raise UserError(f"cannot listen at {host}:{port}: {why}", "choose another --port; 0 takes a free one") from None
    with found:
        yield found


def url_of(at: socket.socket) -> str:
    """What a browser on this machine would be given."""
    host, port = at.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
