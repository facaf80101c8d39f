"""Listening sockets: how they are opened, and the address under which clients reach them."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext, suppress

from ..config import Admin
from ..runtime.sockets import bound_unsent, enable_keepalive

BACKLOG = 2048
"""Connections that may wait to be accepted."""

_WHAT_TO_DO = {
    errno.EADDRINUSE: "; take another port, or 0 for any free one",
    errno.EACCES: "; take a port above 1023",
    errno.EADDRNOTAVAIL: "; take an address of this machine",
}


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, at ``::`` for IPv4 as well; raises OSError, which names the address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
    try:
        listener = socket.create_server(
            (host, port), family=family, backlog=BACKLOG, dualstack_ipv6=both
        )
        # asyncio does it only for sockets whose protocol is named, which this one's is not. All
        # accepted sockets inherit it; without it a second small write waits for the client's ACK.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        enable_keepalive(listener)
        bound_unsent(listener)
    except OSError as error:
        number = error.errno or 0  # negative where the name could not be looked up
        why = os.strerror(number) if number > 0 else "it is no address, and no name of one"
        what_to_do = _WHAT_TO_DO.get(number, "")
        raise OSError(f"cannot listen on {host} port {port}: {why}{what_to_do}") from error
    return listener


def listen_for_admin(admin: Admin) -> AbstractContextManager[socket.socket | None]:
    """A listening socket where ``admin`` has a port of its own; raises as listen."""
    return nullcontext() if admin.port is None else listen(admin.host, admin.port)


def waiting_at(listener: socket.socket) -> Iterator[socket.socket]:
    """Accept the connections that wait: their clients are connected, and closing resets them.

    Event loops would take turns for it, in which all else goes on, and more clients connect.
    """
    with suppress(OSError):  # none waits any more, or no descriptor is left
        for _ in range(BACKLOG):
            yield listener.accept()[0]


def address(listener: socket.socket) -> str:
    """The base URL under which ``listener`` is reached."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
