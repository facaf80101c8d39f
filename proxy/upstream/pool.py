"""Connections to one upstream: opened when none is free, kept for a while after their calls.

There is no limit here: exchanges are bounded at the door, and each makes one call at a time.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from urllib.parse import urlsplit

from aiohappyeyeballs import AddrInfoType, start_connection

from .addresses import Addresses
from .http1 import Connection

KEEP = 30.0
"""Seconds that a free connection is kept. For longer, and a NAT or firewall on the way may have
dropped it without telling either end."""

NEXT_ADDRESS = 0.25
"""Seconds after which the next address of a host is tried beside the first (RFC 8305 §8)."""


class Pool:
    """The connections to the origin of ``base_url``; used within one event loop."""

    def __init__(self, base_url: str, patience: float) -> None:
        base = urlsplit(base_url)
        secure = base.scheme == "https"
        self._host = base.hostname or ""
        self._tls = ssl.create_default_context() if secure else None
        self._patience = patience
        self._addresses = Addresses(self._host, base.port or (443 if secure else 80), patience)
        self._closed = False
        self._free: dict[Connection, float] = {}
        """The free ones, and when they became so: the one used last is the last."""
        self._all: set[Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None

    def count(self) -> tuple[int, int]:
        """How many connections are used, and how many are free."""
        return len(self._all) - len(self._free), len(self._free)

    def free(self, within: float = KEEP) -> Connection | None:
        """The usable connection that became free last, ``within`` seconds ago at most; else None.

        Those that cannot be used any more are closed.
        """
        while self._free:
            connection, since = self._free.popitem()
            if connection.loop.time() - since > within:
                self._free[connection] = since  # back in its place: the others are older
                return None
            if connection.usable():
                return connection
            connection.close()
        return None

    async def new(self) -> Connection:
        """A new connection; raises OSError (TimeoutError among them) and UnicodeError."""
        try:
            async with asyncio.timeout(self._patience):
                connection = await self._opened(await self._addresses.now())
        except OSError:
            self._addresses.doubt()
            raise
        if self._closed:
            connection.close()
        if not connection.closed:
            self._all.add(connection)
        return connection

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
            await connection.start_tls(self._tls, self._host, self._patience)
        return connection

    def close(self) -> None:
        """Close all connections, free or not, and those that are still being opened."""
        self._closed = True
        self._addresses.close()
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in tuple(self._all):
            connection.close()

    def keep(self, connection: Connection) -> None:
        """``connection`` is free for a later call."""
        now = connection.loop.time()
        self._free[connection] = now
        if self._sweep is None:
            self._sweep = connection.loop.call_at(now + KEEP, self._close_old)

    def forget(self, connection: Connection) -> None:
        """``connection`` is closed."""
        self._free.pop(connection, None)
        self._all.discard(connection)

    def _close_old(self) -> None:
        """Close those kept for too long, the first ones, and wake again for the next."""
        self._sweep = None
        loop = asyncio.get_running_loop()
        for connection, since in tuple(self._free.items()):
            if since + KEEP > loop.time():
                self._sweep = loop.call_at(since + KEEP, self._close_old)
                return
            connection.close()
