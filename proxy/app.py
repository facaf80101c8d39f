"""Puts the rooms together: a configuration in, an ASGI application out.

A configuration never changes. A reload puts another one in its place, with a relay and upstreams of
its own; exchanges under way end on the one that they began with.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Receive, Scope, Send

from .admin import admin, page, playground
from .bridge.models import Profile
from .config import Config
from .config import Upstream as UpstreamSettings
from .core.errors import Busy
from .exchange.exchanges import OpenExchanges
from .exchange.learning import learned
from .exchange.relay import Relay
from .ledger.journal import Journal
from .observe.metrics import Metrics
from .observe.record import Observer, Record, log_exchange
from .runtime.daemonthread import started
from .runtime.offload import offload, start_threads
from .upstream.upstream import Upstream

if TYPE_CHECKING:
    from .observe.spans import Spans

log = logging.getLogger("proxy")

CONNECT_WITHIN = 30.0
"""Seconds within which the upstreams of another configuration are made, or it is given up."""

REFRESH = 1.0
"""Seconds after which a worker updates the gauges that it shares with the others."""

Connect = Callable[[UpstreamSettings], Upstream]


class App:
    """The proxy as an ASGI application, which works between lifespan's start-up and shut-down.

    ``worker`` is the name of this process among several workers; ``shared`` is a folder that all of
    them, and nobody else, can write to, None if there is none. ``spans`` trace the exchanges.
    """

    def __init__(
        self,
        config: Config,
        connect: Connect = Upstream,
        *,
        shared: Path | None = None,
        worker: str | None = None,
        spans: Spans | None = None,
    ) -> None:
        self.ready = False
        self.metrics = Metrics(shared, worker)
        self.exchanges = OpenExchanges(config.limits.concurrent_exchanges)
        """Those under way, whichever configuration they began with."""
        self.journal = Journal(config.ledger, shared)
        """The migration ledger; where it is kept stays as it was at the start."""
        self.observers: list[Observer] = [log_exchange, self.metrics.count, self.journal.count]
        """What is called with the record of each exchange that is over."""
        self.spans = spans
        if spans is not None:
            self.observers.append(spans.finish)
            connect = spans.connect
        self._connect = connect
        self._rooms = _Rooms(config, self)
        self._retired: set[_Rooms] = set()
        self._shares_gauges = worker is not None and shared is not None
        self._page_lock = asyncio.Lock()
        self._next_page: asyncio.Task[bytes | None] | None = None
        """The page of metrics that was asked for, and is not begun yet."""

    @property
    def config(self) -> Config:
        """The configuration that new requests are served by."""
        return self._rooms.config

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        rooms = self._rooms
        if scope["raw_path"].startswith(admin.PREFIX):
            await rooms.admin_here(scope, receive, send)
            return
        rooms.under_way += 1
        try:
            await rooms.exchange(scope, receive, send)
        finally:
            rooms.under_way -= 1
            if rooms in self._retired:
                self._close_if_idle(rooms)

    async def admin(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application for ``admin.port``, where that is another than the proxy's."""
        await self._rooms.admin(scope, receive, send)

    async def metrics_page(self) -> bytes | None:
        """The page of metrics; None where there is none.

        All who ask while one is made share the next, so that they do not queue up.
        """
        if self._next_page is None:
            self._next_page = asyncio.create_task(self._page())
        return await asyncio.shield(self._next_page)

    async def _page(self) -> bytes | None:
        async with self._page_lock:
            self._next_page = None  # whoever asks from now on gets a newer one
            self._set_gauges()
            return await offload(self.metrics.page, urgent=True)  # metrics matter most under load

    async def reload(self, config: Config) -> None:
        """Serve new requests by ``config``; those under way end on what they began with.

        Raises TimeoutError where the disk of the trusted certificates hangs.
        """
        rooms = _Rooms(config, self)
        connecting = asyncio.wrap_future(started(partial(rooms.connect, self._connect)))
        try:
            await asyncio.wait_for(connecting, CONNECT_WITHIN)
        except TimeoutError:
            why = f"trusted certificates could not be read within {CONNECT_WITHIN:g} seconds"
            raise TimeoutError(why) from None
        await rooms.open()
        old, self._rooms = self._rooms, rooms
        self.exchanges.limit = config.limits.concurrent_exchanges
        self._retired.add(old)
        log.info("reloaded: %d exchanges end on the configuration before", old.under_way)
        self._close_if_idle(old)

    def notify(self, record: Record) -> None:
        """Call all observers with the record of an exchange that is over."""
        for observer in self.observers:
            observer(record)

    def drain(self) -> None:
        """Take no more work; exchanges that are still open after ``server.drain`` are cut."""
        self.ready = False
        patience = self.config.server.drain
        log.info("draining: %d exchanges have %g seconds", len(self.exchanges), patience)
        asyncio.get_running_loop().call_later(patience, self.exchanges.cut)

    def _set_gauges(self) -> None:
        """Set the gauges to what is open now."""
        used: Counter[str] = Counter()
        free: Counter[str] = Counter()
        for rooms in (self._rooms, *self._retired):
            for name, (uses, frees) in rooms.connections():
                used[name] += uses
                free[name] += frees
        connections = {name: (used[name], free[name]) for name in used}
        self.metrics.set_gauges(len(self.exchanges), self.exchanges.streams, connections)

    async def _refresh_gauges(self) -> None:
        while True:
            self._set_gauges()
            await asyncio.sleep(REFRESH)

    def _close_if_idle(self, rooms: _Rooms) -> None:
        if not rooms.under_way:
            self._retired.discard(rooms)
            rooms.close()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await start_threads()
        self._rooms.connect(self._connect)
        await self._rooms.open()
        with suppress(Busy):  # it is read as soon as its disk answers
            await self.journal.ledger()
        self.ready = True
        refreshing = asyncio.create_task(self._refresh_gauges()) if self._shares_gauges else None
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.ready = False
        if refreshing is not None:
            refreshing.cancel()
        for rooms in (self._rooms, *self._retired):
            rooms.close()
        await self.journal.close()
        if self.spans is not None:
            await asyncio.to_thread(self.spans.close)
        await send({"type": "lifespan.shutdown.complete"})


class _Rooms:
    """What one configuration is served by: a relay, upstreams and admin endpoints."""

    def __init__(self, config: Config, app: App) -> None:
        self.config = config
        self.under_way = 0
        """How many requests have entered and not left yet, their clean-up included."""
        self._upstreams: dict[str, Upstream] = {}
        self._learned: dict[str, Mapping[str, Profile]] = {}
        """What upstreams said about their models; the rooms below see it as soon as it is here."""
        relay = Relay(config, self._upstreams, app.exchanges, app.notify, self._learned)
        self.exchange: ASGIApp = relay if app.spans is None else app.spans.around(relay)
        routes = page.routes(app.journal)
        routes += playground.routes(config, app.exchanges, self._learned)
        self.admin = admin.build(
            app, enabled=config.admin.enabled, names=config.admin.hosts, more=routes
        )
        elsewhere = config.admin.port is not None
        self.admin_here = admin.build(app, enabled=False) if elsewhere else self.admin
        """What is under /-/ on the proxy's own port."""

    def connections(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """The name of each upstream, and how many connections to it are in use and free."""
        for name, upstream in self._upstreams.items():
            yield name, upstream.connections()

    def connect(self, connect: Connect) -> None:
        """Make the upstreams, which may read the trusted certificates from disk."""
        for settings in self.config.upstreams.values():
            self._upstreams[settings.name] = connect(settings)

    async def open(self) -> None:
        """Ask upstreams for their models, if so configured; before the first request."""
        try:
            if self.config.models_from_upstream:
                self._learned |= await learned(self.config, self._upstreams)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connections to all upstreams."""
        for upstream in self._upstreams.values():
            upstream.close()


def build(config: Config) -> App:
    """The application for one process, for those who embed it in a server of their own."""
    return App(config)
