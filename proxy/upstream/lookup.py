"""The addresses of a host name.

The system may take half a minute to resolve a name, and the call cannot be cancelled. uvloop makes
two such calls at a time: two names that no server answers for would hold up those of all other
upstreams, and the end of the process as well. So each is looked up in a thread of its own.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import cast

from aiohappyeyeballs import AddrInfoType

from ..runtime.daemonthread import DaemonThread


async def look_up(host: str, port: int) -> Sequence[AddrInfoType]:
    """The addresses of ``host``; raises OSError, and UnicodeError for what is no name."""
    with suppress(socket.gaierror):
        return _found(host, port, socket.AI_NUMERICHOST)
    try:
        thread = DaemonThread()
    except OSError:  # the loop has had its own from the start
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return cast(Sequence[AddrInfoType], found)
    try:
        return await thread.do(partial(_found, host, port))
    finally:
        thread.stop()


def _found(host: str, port: int, flags: int = 0) -> Sequence[AddrInfoType]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return cast(Sequence[AddrInfoType], found)
