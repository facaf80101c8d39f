"""What the system is asked of each connection, to clients and to upstreams."""

from __future__ import annotations

import socket
import sys
from contextlib import suppress

if sys.platform == "linux":
    import fcntl
    import termios

ASKED = 60
"""Seconds of silence after which the other end is asked whether it is still there, and again, as by
the API's own SDKs. What stands between forgets a silent connection without a word, and the answer
is lost: NAT often after 350 seconds, where an answer may take longer to begin."""

UNHEARD = 5
"""How often it is asked in vain before it is taken for gone."""


def enable_keepalive(opened: socket.socket) -> None:
    """Have the system ask for a silent other end; its own way, after two hours, comes too late.

    What a listening socket accepts takes it over.
    """
    with suppress(OSError):  # it may be lost already
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("KEEPIDLE", ASKED), ("KEEPINTVL", ASKED), ("KEEPCNT", UNHEARD)):
            option = getattr(socket, f"TCP_{name}", None)  # not every platform has each
            if option is not None:
                opened.setsockopt(socket.IPPROTO_TCP, option, value)


def untaken(opened: socket.socket) -> int:
    """What it was given and the other end has not made room for, in bytes; 0 where it cannot say.

    It asks for more only once a third of what it holds is gone, and that may be 4 MB.
    """
    if sys.platform == "linux":
        with suppress(OSError, ValueError):  # it may be lost already
            told = fcntl.ioctl(opened, termios.TIOCOUTQ, bytes(4))
            return int.from_bytes(told, sys.byteorder)
    return 0
