"""The addresses of one host, looked up when they are needed and kept for a while.

While no name server answers, those that were found last serve (RFC 8767): with the first name
server down, or one packet lost, the system takes five seconds to give up.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

from aiohappyeyeballs import AddrInfoType

from .lookup import look_up

TTL = 10.0
"""Seconds for which addresses are cached, so that a burst of calls looks them up once."""

STALE_AFTER = 1.0
"""Seconds that a new look-up may take before the addresses found last are used once more."""


class Addresses:
    """Those of ``host``; a call has ``patience`` seconds to look them up and to connect.

    To look up anew what is known already may take half of that at most.
    """

    def __init__(self, host: str, port: int, patience: float) -> None:
        self._host = host
        self._port = port
        self._longest = patience / 2
        self._found: Sequence[AddrInfoType] = ()
        self._stale_at = 0.0
        self._doubted = False
        """Whether connecting to those found last has failed."""
        self._lookup: asyncio.Task[Sequence[AddrInfoType]] | None = None

    async def now(self) -> Sequence[AddrInfoType]:
        """The addresses, looked up once for all who wait; raises OSError and UnicodeError."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._stale_at:
            return self._found
        if self._lookup is None:
            self._lookup = loop.create_task(self._look_up())
            self._lookup.add_done_callback(_retrieve)
        lookup = self._lookup
        before = self._found
        # The host may have moved: where it was is worth a try only if nobody can say where it is.
        wait = self._longest if self._doubted else min(STALE_AFTER, self._longest)
        try:
            # Not asyncio.shield: it, too, logs a failure that nobody waits for any more.
            await asyncio.wait((lookup,), timeout=wait if before else None)
            return before if before and _unanswered(lookup) else lookup.result()
        finally:
            del lookup  # its exception's traceback holds this frame: a cycle

    def doubt(self) -> None:
        """Look them up anew: connecting has failed, and the host may have moved.

        They are not forgotten: its upstream may just be starting, while no name server answers.
        """
        self._doubted, self._stale_at = True, 0.0

    def close(self) -> None:
        """End a look-up that is under way."""
        if self._lookup is not None:
            self._lookup.cancel()

    async def _look_up(self) -> Sequence[AddrInfoType]:
        try:
            self._found = await look_up(self._host, self._port)
        finally:
            self._lookup = None
        self._stale_at = asyncio.get_running_loop().time() + TTL
        self._doubted = False
        return self._found


def _retrieve(lookup: asyncio.Task[Sequence[AddrInfoType]]) -> None:
    """Retrieve the exception, or asyncio logs it where all who asked have given up by then.

    That is usual: a name server that is down is waited for longer than ``timeouts.connect``.
    """
    if not lookup.cancelled():
        lookup.exception()


def _unanswered(lookup: asyncio.Task[Sequence[AddrInfoType]]) -> bool:
    """Whether no name server has answered, not even that there is no such name."""
    if not lookup.done():
        return True
    failure = lookup.exception()
    return isinstance(failure, socket.gaierror) and failure.errno == socket.EAI_AGAIN
