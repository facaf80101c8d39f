"""Connections to one upstream: opened when none is free, kept while that is cheap.

There is no limit here: exchanges are bounded at the door, and each has one call at a time.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from urllib.parse import urlsplit

from aiohappyeyeballs import start_connection

from .http1 import Connection

KEEP = 30.0
"""Seconds that a free connection is kept. Longer, and what stands between may have forgotten it
without a word."""

NEXT_ADDRESS = 0.25
"""Seconds after which the next address of a host is tried beside the first (RFC 8305 §8)."""


class Pool:
    """The connections to the origin of ``base_url``; made and used within one event loop."""

    def __init__(self, base_url: str, patience: float) -> None:
        base = urlsplit(base_url)
        self._secure = base.scheme == "https"
        self._host = base.hostname or ""
        self._port = base.port or (443 if self._secure else 80)
        self._tls = ssl.create_default_context() if self._secure else None
        self._patience = patience
        self._free: dict[Connection, float] = {}
        """The free ones, and when they became so."""
        self._all: set[Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None

    def free(self) -> Connection | None:
        """A connection that was used before, the one used last."""
        if not self._free:
            return None
        connection, _ = self._free.popitem()
        return connection

    async def new(self) -> Connection:
        """Another connection; raises OSError, also as TimeoutError, and UnicodeError."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._patience):
            addresses = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            opened = await start_connection(addresses, happy_eyeballs_delay=NEXT_ADDRESS)
            try:
                opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                _, connection = await loop.create_connection(
                    lambda: Connection(self._keep, self._forget),
                    sock=opened,
                    ssl=self._tls,
                    server_hostname=self._host if self._secure else None,
                )
            except BaseException:
                opened.close()
                raise
        self._all.add(connection)
        return connection

    def close(self) -> None:
        """Close all connections, free or not."""
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in tuple(self._all):
            connection.close()

    def _keep(self, connection: Connection) -> None:
        now = connection.loop.time()
        self._free[connection] = now
        if self._sweep is None:
            self._sweep = connection.loop.call_at(now + KEEP, self._close_old)

    def _forget(self, connection: Connection) -> None:
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
            del self._free[connection]
            connection.close()
