"""Listening sockets: how they are opened, and the address under which clients reach them."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from ..config import Admin
from ..runtime.sockets import bound_unsent, enable_keepalive, readable

BACKLOG = 2048
"""Connections that may wait to be accepted."""

ACCEPT_WITHIN = 1.0
"""Seconds for which a stop accepts those who wait. Under load a turn of the event loop may take a
tenth of that, and those who were answered may connect again: they would put the drain off until the
process is killed."""

TURNS = 5
"""Turns of the event loop from accepting a connection to reading what has arrived there."""

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


async def accept_waiting(listeners: Sequence[socket.socket]) -> None:
    """Let the event loop accept the connections that wait, before ``listeners`` are closed.

    Their clients are connected already, and closing resets those that nobody has accepted. Some
    loops accept one in each turn. What has arrived at other connections is read meanwhile.
    """
    loop = asyncio.get_running_loop()
    due = loop.time() + ACCEPT_WITHIN
    quiet = 0
    while loop.time() < due:  # if clients come faster than that, some are lost
        await asyncio.sleep(0)
        quiet = 0 if any(map(readable, listeners)) else quiet + 1
        if quiet == TURNS:
            return


def address(listener: socket.socket) -> str:
    """The base URL under which ``listener`` is reached."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
