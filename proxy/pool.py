"""Connections to one upstream: opened when none is free, kept while that is cheap.

There is no limit here: exchanges are bounded at the door, and each has one call at a time.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from urllib.parse import urlsplit

from aiohappyeyeballs import AddrInfoType, start_connection

from .http1 import Connection
from .lookup import look_up

KEEP = 30.0
"""Seconds that a free connection is kept. Longer, and what stands between may have forgotten it
without a word."""

RESOLVED = 10.0
"""Seconds for which the addresses of a host are believed, so that a burst asks for them once."""

ASKED_AGAIN = 1.0
"""Seconds that a host's name may be asked for anew before it is taken to be where it was (RFC 8767
§5). Where the first name server is down, or one packet was lost, the system asks for five."""

NEXT_ADDRESS = 0.25
"""Seconds after which the next address of a host is tried beside the first (RFC 8305 §8)."""


class Pool:
    """The connections to the origin of ``base_url``; used within one event loop."""

    def __init__(self, base_url: str, patience: float) -> None:
        base = urlsplit(base_url)
        secure = base.scheme == "https"
        self._host = base.hostname or ""
        self._port = base.port or (443 if secure else 80)
        self._tls = ssl.create_default_context() if secure else None
        self._patience = patience
        self._addresses: Sequence[AddrInfoType] = ()
        self._stale_at = 0.0
        self._asking: asyncio.Task[Sequence[AddrInfoType]] | None = None
        self._closed = False
        self._free: dict[Connection, float] = {}
        """The free ones, and when they became so."""
        self._all: set[Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None

    def count(self) -> tuple[int, int]:
        """How many connections are used, and how many are free."""
        return len(self._all) - len(self._free), len(self._free)

    def free(self, within: float = KEEP) -> Connection | None:
        """A connection that was used before, the one used last, None if none is as it was left.

        It became free ``within`` the last seconds.
        """
        while self._free:
            connection, since = self._free.popitem()
            if connection.loop.time() - since > within:
                self._free[connection] = since  # behind the older ones, where it was
                return None
            if connection.quiet():
                return connection
            connection.close()
        return None

    async def new(self) -> Connection:
        """Another connection; raises OSError, also as TimeoutError, and UnicodeError."""
        try:
            async with asyncio.timeout(self._patience):
                connection = await self._opened(await self._resolved())
        except OSError:
            self._addresses, self._stale_at = (), 0.0  # the host may have moved
            raise
        if self._closed:
            connection.close()
        if not connection.closed:
            self._all.add(connection)
        return connection

    async def _resolved(self) -> Sequence[AddrInfoType]:
        """The addresses of the host, asked for once however many want to know; raises as new.

        Those that were last found, and have not failed since, do where nobody says anything of it.
        """
        loop = asyncio.get_running_loop()
        if loop.time() < self._stale_at:
            return self._addresses
        if self._asking is None:
            self._asking = loop.create_task(self._asked())
            self._asking.add_done_callback(_heard)
        asking = self._asking
        before = self._addresses
        try:
            # Shield, too, complains where nobody waits any more.
            within = min(ASKED_AGAIN, self._patience / 2)  # or there is no time left to connect
            await asyncio.wait((asking,), timeout=within if before else None)
            return before if before and _unanswered(asking) else asking.result()
        finally:
            del asking  # or what it failed with holds it: a circle

    async def _asked(self) -> Sequence[AddrInfoType]:
        loop = asyncio.get_running_loop()
        try:
            self._addresses = await look_up(self._host, self._port)
        finally:
            self._asking = None
        self._stale_at = loop.time() + RESOLVED
        return self._addresses

    async def _opened(self, addresses: Sequence[AddrInfoType]) -> Connection:
        connect: Callable[..., Awaitable[tuple[object, Connection]]] = partial(
            asyncio.get_running_loop().create_connection, partial(Connection, self)
        )
        if len(addresses) == 1:  # nothing to choose, and a third of the cost
            host, port, *_ = addresses[0][4]
            _, connection = await connect(host, port)
        else:
            chosen = await start_connection(addresses, happy_eyeballs_delay=NEXT_ADDRESS)
            _, connection = await connect(sock=chosen)
        if self._tls is not None:
            await connection.encipher(self._tls, self._host, self._patience)
        return connection

    def close(self) -> None:
        """Close all connections, free or not, and those that are still being opened."""
        self._closed = True
        if self._asking is not None:
            self._asking.cancel()
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in tuple(self._all):
            connection.close()

    def keep(self, connection: Connection) -> None:
        """Have it for a later call."""
        now = connection.loop.time()
        self._free[connection] = now
        if self._sweep is None:
            self._sweep = connection.loop.call_at(now + KEEP, self._close_old)

    def forget(self, connection: Connection) -> None:
        """Know it no more."""
        self._free.pop(connection, None)
        self._all.discard(connection)

    def _close_old(self) -> None:
        """The oldest stand first, and the next look is when the first of the rest is old."""
        self._sweep = None
        loop = asyncio.get_running_loop()
        for connection, since in tuple(self._free.items()):
            if since + KEEP > loop.time():
                self._sweep = loop.call_at(since + KEEP, self._close_old)
                return
            connection.close()


def _heard(asked: asyncio.Task[Sequence[AddrInfoType]]) -> None:
    """Take what it failed with: whoever had asked may have given up before, and asyncio complains.

    A name server that is down is waited for longer than ``timeouts.connect``.
    """
    if not asked.cancelled():
        asked.exception()


def _unanswered(asked: asyncio.Task[Sequence[AddrInfoType]]) -> bool:
    """Whether no name server has said anything, be it that there is no such name."""
    if not asked.done():
        return True
    failure = asked.exception()
    return isinstance(failure, socket.gaierror) and failure.errno == socket.EAI_AGAIN
