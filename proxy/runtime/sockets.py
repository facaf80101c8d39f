"""TCP options and counters of connections, to clients and to upstreams."""

from __future__ import annotations

import select
import socket
import sys
from contextlib import suppress

if sys.platform == "linux":
    import fcntl
    import termios

INTERVAL = 60
"""Seconds of silence before a keep-alive probe, and between probes, as in the API's own SDKs. A NAT
may forget a silent connection after 350 seconds without telling anyone, and an answer that takes
longer to begin would be lost."""

PROBES = 5
"""How many probes may go unanswered before the other end is taken for gone."""

UNSENT = 128 << 10
"""How much that was written may wait in the system until the other end has room for it, in bytes.
Usually that is 4 MB a connection, which in a container counts as our memory: a hundred clients that
read nothing, whatever they ask, would take 400 MB."""


def enable_keepalive(opened: socket.socket) -> None:
    """Enable keep-alive probes; by default the first is sent after two hours.

    Sockets that a listening one accepts inherit this.
    """
    with suppress(OSError):  # the connection may be lost already
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("KEEPIDLE", INTERVAL), ("KEEPINTVL", INTERVAL), ("KEEPCNT", PROBES)):
            option = getattr(socket, f"TCP_{name}", None)  # not every platform has each
            if option is not None:
                opened.setsockopt(socket.IPPROTO_TCP, option, value)


def bound_unsent(opened: socket.socket) -> None:
    """Have at most UNSENT bytes wait in the system; what is on its way does not count.

    So a fast connection is as fast as it was, other than with a smaller buffer. Sockets that a
    listening one accepts inherit this.
    """
    option = getattr(socket, "TCP_NOTSENT_LOWAT", None)  # not every platform has it
    if option is not None:
        with suppress(OSError):  # the connection may be lost already
            opened.setsockopt(socket.IPPROTO_TCP, option, UNSENT)


def unacknowledged(opened: socket.socket) -> int:
    """How much was written that the other end has not acknowledged, in bytes; 0 if unknown.

    The event loop learns of that late: a socket becomes writable only once a third of its buffer,
    which may be 4 MB, is free.
    """
    if sys.platform == "linux":
        with suppress(OSError, ValueError):  # the connection may be lost already
            amount = fcntl.ioctl(opened, termios.TIOCOUTQ, bytes(4))
            return int.from_bytes(amount, sys.byteorder)
    return 0


def readable(opened: socket.socket) -> bool:
    """Whether something can be read, be it the end; does not wait."""
    if opened.fileno() < 0:
        return True  # it is closed; TLS reports that a turn later
    poll = select.poll()  # select itself fails for descriptors above 1023
    poll.register(opened, select.POLLIN)
    return bool(poll.poll(0))
