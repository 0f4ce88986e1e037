"""A socket at an address of this machine, for whoever serves something there."""

import ipaddress
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
    except (OSError, OverflowError) as error:  # the second of what is no port at all
        why = (error.strerror if isinstance(error, OSError) else "") or str(error)
        hint = "choose another --port (0 takes a free one) or another --host"
        raise UserError(f"cannot listen at {host}:{port}: {why.partition(' (while')[0]}", hint) from None
    with found:
        yield found


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def names_of(host: str) -> list[str]:
    """The hosts that a request may name to what listens there: on loopback those of this machine alone. A page of a
    browser that reaches it by a name of its own, which is made to lead here, names that (DNS rebinding)."""
    return ["127.0.0.1", "localhost", "::1", "[::1]", host] if is_loopback(host) else ["*"]


def url_of(at: socket.socket) -> str:
    """What a browser on this machine would be given."""
    host, port = at.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
