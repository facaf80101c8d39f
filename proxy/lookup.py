"""Where a host is.

The system may look for a name for half a minute, and cannot be told to give up. uvloop lets it look
for two at a time: two names that nobody answers for would hold up those of all other upstreams, and
the end of the process as well.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import cast

from aiohappyeyeballs import AddrInfoType

Answer = asyncio.Future[Sequence[AddrInfoType]]


async def look_up(host: str, port: int) -> Sequence[AddrInfoType]:
    """The addresses of ``host``; raises OSError, and UnicodeError for what is no name.

    A name is looked for in a thread of its own, which nobody waits for at the end.
    """
    with suppress(socket.gaierror):
        return _found(host, port, socket.AI_NUMERICHOST)
    loop = asyncio.get_running_loop()
    answer: Answer = loop.create_future()
    try:
        threading.Thread(target=_look_for, args=(host, port, loop, answer), daemon=True).start()
    except RuntimeError:  # there is none to be had; the loop has had its own from the start
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return cast(Sequence[AddrInfoType], found)
    try:
        return await answer
    finally:
        del answer  # or what it failed with holds it: a circle


def _look_for(host: str, port: int, loop: asyncio.AbstractEventLoop, answer: Answer) -> None:
    found: Sequence[AddrInfoType] = ()
    failure: Exception | None = None
    try:
        found = _found(host, port)
    except Exception as error:  # noqa: BLE001  (or whoever waits would never hear of it)
        failure = error.with_traceback(None)  # or it holds this frame, which holds it: a circle

    def tell() -> None:
        if answer.done():  # nobody waits any more
            return
        if failure is None:
            answer.set_result(found)
        else:
            answer.set_exception(failure)

    with suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(tell)


def _found(host: str, port: int, flags: int = 0) -> Sequence[AddrInfoType]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return cast(Sequence[AddrInfoType], found)
