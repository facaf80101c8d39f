"""One process around the application: uvicorn, its signals, start and drain."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial

import uvicorn
from starlette.types import ASGIApp

from ..app import App
from ..config import Config
from ..connection.protocol import Protocol, Settings
from ..observe import logs
from ..observe.metrics import Metrics
from ..observe.tracing import configured
from .listeners import address, listen, waiting_at
from .process import tune_garbage_collector
from .reload import Load, Reading, read_again
from .settings import longest_stop, settings_for

log = logging.getLogger("proxy")

LAST_SECONDS = 1
"""Seconds that exchanges which a second signal has cut have to send their last event."""

TURNS = 5
"""Turns of the event loop in which all is read that has arrived at connections."""

Next = Callable[[Config], Awaitable[Config | None]]
"""Takes the configuration in force and returns the next; None leaves it in force."""


class Server(uvicorn.Server):
    """uvicorn's, which exits with 0 after a drain. ``started`` is called once requests are served.

    At ``admin``, a listening socket, it serves what the proxy has under ``/-/`` to the very end of
    a drain, for those who want to know how it goes.
    """

    config: Settings

    def __init__(
        self, app: ASGIApp, started: Callable[[], object], admin: socket.socket | None = None
    ) -> None:
        super().__init__(settings_for(app))
        self._say_started = started
        self._admin = admin
        self._next: Next | None = None
        self._reload_asked = asyncio.Event()
        self._reloading: asyncio.Task[None] | None = None
        self._exits = AsyncExitStack()
        self._for_admin: Server | None = None

    @property
    def app(self) -> App | None:
        """The application, if it is the proxy."""
        app = self.config.loaded_app
        return app if isinstance(app, App) else None

    def stop(self) -> None:
        """Let open exchanges finish, then stop; called once more, do not wait for them."""
        if self.should_exit:
            self.end()
        self.should_exit = True

    def end(self) -> None:
        """Stop at once: exchanges have LAST_SECONDS to finish as failed, then they are cut."""
        self.should_exit = True
        if self.app is not None:
            log.warning("stopping at once: %d exchanges are cut", len(self.app.exchanges))
            self.app.exchanges.cut()
        asyncio.get_running_loop().call_later(LAST_SECONDS, self.abort_connections)

    def reload(self, following: Next) -> None:
        """Serve new requests by what ``following`` returns; of several calls the last counts."""
        self._next = following
        self._reload_asked.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start up, then say so."""
        await super().startup(sockets)
        if self.app is not None:
            self._reloading = asyncio.create_task(self._reload_when_asked(self.app))
            if self._admin is not None:
                serving = _serving(self.app.admin, self._admin)
                self._for_admin = await self._exits.enter_async_context(serving)
        self._say_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer all who are connected by now, and let open exchanges finish; see App.drain."""
        loop = asyncio.get_running_loop()
        if self._reloading is not None:
            self._reloading.cancel()
        if self.app is not None:
            self.config.timeout_graceful_shutdown = longest_stop(self.app.config)
            self.config.answers_until = loop.time() + self.app.config.server.drain
            self.app.drain()
        stop = self.config.timeout_graceful_shutdown or 0
        due = loop.time() + stop
        # Clients that still take nothing go first, or uvicorn would cancel what waits for them.
        loop.call_later(stop - LAST_SECONDS, self.abort_connections)
        self.config.draining = True
        await self._accept_waiting(sockets or ())
        await super().shutdown(sockets)
        if self._for_admin is not None:
            left = math.ceil(due - loop.time())
            self._for_admin.config.timeout_graceful_shutdown = max(LAST_SECONDS, left)
            await self._exits.aclose()

    async def _accept_waiting(self, listeners: Sequence[socket.socket]) -> None:
        """Accept the connections that wait and no more, and read what has arrived at all of them.

        However many clients keep coming, this ends at once: the time of a drain has begun.
        """
        waiting = [connection for each in listeners for connection in waiting_at(each)]
        for server in self.servers:
            server.close()
        loop = asyncio.get_running_loop()
        made = partial(
            Protocol,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        accepted = (loop.connect_accepted_socket(made, connection) for connection in waiting)
        await asyncio.gather(*accepted, return_exceptions=True)
        for _ in range(TURNS):
            await asyncio.sleep(0)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on signals, and do not raise them again afterwards as uvicorn does: exit with 0."""
        with self._heeding({signal.SIGINT: self.stop, signal.SIGTERM: self.stop}):
            yield

    @contextmanager
    def _heeding(self, signals: dict[signal.Signals, Callable[[], object]]) -> Iterator[None]:
        """Act on signals while the block runs, and ignore them afterwards.

        The process is about to exit then, and its exit code must not change. After a failure they
        end it: to tell why may take for ever, where nobody reads it.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for number, act in signals.items():
            loop.add_signal_handler(number, act)
        afterwards = signal.SIG_DFL
        try:
            yield
            afterwards = signal.SIG_IGN
        finally:
            for number in signals:
                loop.remove_signal_handler(number)
                signal.signal(number, afterwards)

    async def _reload_when_asked(self, app: App) -> None:
        while True:
            await self._reload_asked.wait()
            self._reload_asked.clear()
            assert self._next is not None  # noqa: S101  (set before the event)
            try:
                if (config := await self._next(app.config)) is not None:
                    await app.reload(config)
            except TimeoutError as error:
                log.error("not reloaded: %s", error)
            except Exception:
                log.exception("a fault of ours: the configuration stays as it was")

    def abort_connections(self) -> None:
        """Close all connections that are still open, those to the port of admin, too."""
        for connection in tuple(self.server_state.connections):
            connection.transport.abort()
        if self._for_admin is not None:
            self._for_admin.abort_connections()


class _Reloading(Server):
    """The proxy in a single process, which serves by what ``following`` returns after a SIGHUP."""

    def __init__(
        self,
        app: App,
        started: Callable[[], object],
        admin: socket.socket | None,
        following: Next,
    ) -> None:
        super().__init__(app, started, admin)
        self._following = following

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on signals as any server, and reload."""
        reload = partial(self.reload, self._following)
        stop = self.stop
        with self._heeding({signal.SIGINT: stop, signal.SIGTERM: stop, signal.SIGHUP: reload}):
            yield


def serve(
    load: Load, config: Config, listener: socket.socket, admin: socket.socket | None = None
) -> None:
    """Serve ``config`` until a signal says stop, and after each SIGHUP what ``load`` reads then.

    ``admin`` listens at ``admin.port``, where there is one.
    """
    app = App(config, spans=configured(os.environ))
    following = partial(_read_again, load, app.metrics)
    server = _Reloading(app, partial(_ready, listener, admin), admin, following)
    server.run([listener])


async def _read_again(load: Load, metrics: Metrics, before: Config) -> Config | None:
    """See reload.read_again; the loop goes on meanwhile, as streams must."""
    loop = asyncio.get_running_loop()
    read = asyncio.Event()

    def wake() -> None:
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(read.set)

    reading = Reading(load, wake)
    with suppress(TimeoutError):
        await asyncio.wait_for(read.wait(), reading.patience)
    return read_again(reading.config, metrics, before)


def serve_app(app: ASGIApp, host: str, port: int) -> None:
    """Serve any application until a signal says stop; raises OSError."""
    logs.to_stderr()
    with listen(host, port) as listener:
        Server(app, partial(_ready, listener)).run([listener])


@asynccontextmanager
async def running(app: ASGIApp, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """Serve an application within this event loop; yields its base URL."""
    with listen(host, port) as listener:
        async with _serving(app, listener):
            yield address(listener)


@asynccontextmanager
async def _serving(app: ASGIApp, listener: socket.socket) -> AsyncIterator[Server]:
    """Serve an application within this event loop, at a socket that is closed with it."""
    started = asyncio.Event()
    server = _Embedded(app, started.set)
    serving = asyncio.create_task(server.serve([listener]))
    try:
        await started.wait()
        yield server
    finally:
        server.over.set()
        await serving


class _Embedded(Server):
    """A server within the event loop of something else, which alone handles signals.

    It stops as soon as ``over`` is set, where uvicorn polls ten times a second.
    """

    def __init__(self, app: ASGIApp, started: Callable[[], object]) -> None:
        super().__init__(app, started)
        self.over = asyncio.Event()

    async def main_loop(self) -> None:
        """Wait for the end."""
        await self.over.wait()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _ready(listener: socket.socket, admin: socket.socket | None = None) -> None:
    tune_garbage_collector()
    print_ready(listener, admin)


def print_ready(listener: socket.socket, admin: socket.socket | None = None) -> None:
    """Print the one line on standard output: that the proxy is ready, and where it listens."""
    where = address(listener) + (f" and for /-/ on {address(admin)}" if admin else "")
    logs.print_at_once(f"anthropic-version-proxy listens on {where}", sys.stdout)
