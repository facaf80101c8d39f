"""What is pending on a connection: what arrived that its event loop has not read, or would drop.

The loop does not tell, so the socket is asked, or the TLS above it; none of this waits.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress

from .answer import UNREAD_SIZE

LEFT_OVER = 1 << 20
"""How much of an answer is still read once its connection is lost, in bytes."""


def left_over(lost: socket.socket, tls: ssl.SSLObject | None) -> Iterator[bytes]:
    """What had arrived before a write failed, or while reading was paused, and was not read yet.

    The event loops drop it; uvloop even what TLS has taken from the socket. What TLS has not taken
    is lost: nothing is left that could decrypt it.
    """
    left = LEFT_OVER
    with suppress(OSError):
        while left > 0:
            part = tls.read(UNREAD_SIZE) if tls else os.read(lost.fileno(), UNREAD_SIZE)
            if not part:
                return
            left -= len(part)
            yield part


def nothing_pending(tls: ssl.SSLObject) -> bool:
    """Whether there is nothing to read; takes a byte of what there is."""
    try:
        tls.read(1)
    except ssl.SSLWantReadError:
        return True
    except ssl.SSLError:
        return False
    return False


def ended_cleanly(tls: ssl.SSLObject | None) -> bool:
    """Whether the upstream itself ended it: anyone can close a connection, but not forge a
    close_notify. asyncio does not tell the two apart.
    https://www.rfc-editor.org/rfc/rfc9112#section-9.8
    """
    try:
        return tls is None or not tls.read(1)
    except ssl.SSLError:
        return False
