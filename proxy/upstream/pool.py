"""Connections to one upstream: opened when none is free, kept for a while after their calls.

There is no limit here: exchanges are bounded at the door, and each makes one call at a time.
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
"""Seconds that a free connection is kept. For longer, and a NAT or firewall on the way may have
dropped it without telling either end."""

ADDRESS_TTL = 10.0
"""Seconds for which the addresses of a host are cached, so that a burst looks them up once."""

STALE_AFTER = 1.0
"""Seconds that a new look-up may take before the addresses found last are used once more (RFC 8767
§5). With the first name server down, or one packet lost, the system takes five."""

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
        self._lookup: asyncio.Task[Sequence[AddrInfoType]] | None = None
        self._closed = False
        self._free: dict[Connection, float] = {}
        """The free ones, and when they became so: the one used last is the last."""
        self._all: set[Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None

    def count(self) -> tuple[int, int]:
        """How many connections are used, and how many are free."""
        return len(self._all) - len(self._free), len(self._free)

    def free(self, within: float = KEEP) -> Connection | None:
        """The connection that became free last, if ``within`` so many seconds, and is usable.

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
                connection = await self._opened(await self._addresses_now())
        except OSError:
            self._addresses, self._stale_at = (), 0.0  # the host may have moved
            raise
        if self._closed:
            connection.close()
        if not connection.closed:
            self._all.add(connection)
        return connection

    async def _addresses_now(self) -> Sequence[AddrInfoType]:
        """The addresses of the host, looked up once for all who wait; raises as new.

        While no name server answers, those that were found last serve, until connecting fails.
        """
        loop = asyncio.get_running_loop()
        if loop.time() < self._stale_at:
            return self._addresses
        if self._lookup is None:
            self._lookup = loop.create_task(self._look_up())
            self._lookup.add_done_callback(_retrieve)
        lookup = self._lookup
        before = self._addresses
        try:
            # Not asyncio.shield: it, too, logs a failure that nobody waits for any more.
            within = min(STALE_AFTER, self._patience / 2)  # or there is no time left to connect
            await asyncio.wait((lookup,), timeout=within if before else None)
            return before if before and _unanswered(lookup) else lookup.result()
        finally:
            del lookup  # its exception's traceback holds this frame: a cycle

    async def _look_up(self) -> Sequence[AddrInfoType]:
        loop = asyncio.get_running_loop()
        try:
            self._addresses = await look_up(self._host, self._port)
        finally:
            self._lookup = None
        self._stale_at = loop.time() + ADDRESS_TTL
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
            await connection.start_tls(self._tls, self._host, self._patience)
        return connection

    def close(self) -> None:
        """Close all connections, free or not, and those that are still being opened."""
        self._closed = True
        if self._lookup is not None:
            self._lookup.cancel()
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
