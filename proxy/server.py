"""The process around the application: sockets, signals, workers, drain.

uvicorn is pinned to one parser and one loop, so that what the tests hold is what runs.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import lru_cache, partial
from multiprocessing.context import SpawnProcess

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http import httptools_impl

from .app import App
from .config import Config
from .protocol import Protocol

GARBAGE = (20_000, 50, 1_000)
"""How much may be made before the garbage collector looks at the youngest, and how many such
looks come before one at the older and at all; see gc.set_threshold."""

AFTER_DRAIN = 5
"""Seconds that exchanges have to say goodbye after they were cut."""

KEEP_ALIVE = 75
"""Seconds that an idle client connection is kept; above what load balancers reuse."""

BACKLOG = 2048
"""Connections that may wait to be accepted."""

WATCH = 0.5
"""Seconds between two looks at the workers."""

_PHRASES = {499: "Client Closed Request", 529: "Overloaded"}


class Server(uvicorn.Server):
    """uvicorn, for which a drained stop is a success. ``started`` is called when it answers."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], object]) -> None:
        super().__init__(config)
        self._say_started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start up, then say so."""
        await super().startup(sockets)
        self._say_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let open exchanges finish; see App.drain."""
        app = self.config.loaded_app
        if isinstance(app, App):
            app.drain()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on signals without raising them again afterwards, as uvicorn would: exit is 0."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)


def serve(load: Callable[[], Config], workers: int = 1) -> None:
    """Serve what ``load`` configures until a signal says stop; raises OSError.

    Workers are processes that share one listening socket; one that dies is replaced.
    """
    _log_to_stderr()
    config = load()
    with _listen(config.server.host, config.server.port) as listener:
        if workers == 1:
            Server(_settings(App(config)), partial(_ready, _address(listener))).run([listener])
            return
        _print_ready(_address(listener))  # connections wait from here on, so it is true
        _supervise(partial(_work, load, listener), workers, config.server.drain + AFTER_DRAIN)


def serve_app(app: ASGIApp, host: str, port: int) -> None:
    """Serve any application until a signal says stop; raises OSError."""
    _log_to_stderr()
    with _listen(host, port) as listener:
        Server(_settings(app), partial(_ready, _address(listener))).run([listener])


@asynccontextmanager
async def running(app: ASGIApp, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """Serve an application within this event loop; yields its base URL."""
    started = asyncio.Event()
    with _listen(host, port) as listener:
        server = _Embedded(_settings(app), started.set)
        serving = asyncio.create_task(server.serve([listener]))
        try:
            await started.wait()
            yield _address(listener)
        finally:
            server.should_exit = True
            await serving


class _Embedded(Server):
    """A server whose process has other things to do: signals are not its own."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _collect_seldom() -> None:
    """Look for garbage seldom, and never at what the start has made.

    Exchanges leave no cycles behind, so that reference counts free them. A look at everything
    takes a tenth of a second when thousands of streams are open, and stops them all.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE)


def _work(load: Callable[[], Config], listener: socket.socket) -> None:
    """Be one worker process."""
    _log_to_stderr()
    Server(_settings(App(load())), _collect_seldom).run([listener])


def _supervise(work: Callable[[], None], count: int, stop_within: float) -> None:
    """Keep ``count`` worker processes until a signal says stop, then let them drain."""
    context = multiprocessing.get_context("spawn")

    def started() -> SpawnProcess:
        worker = context.Process(target=work)
        worker.start()
        return worker

    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    workers = [started() for _ in range(count)]
    while not stopping.wait(WATCH):
        workers = [worker if worker.is_alive() else started() for worker in workers]
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join(stop_within)
        worker.kill()


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket; raises OSError, which says where."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        unresolved = isinstance(error, socket.gaierror)
        why = error.strerror if unresolved else os.strerror(error.errno or 0)
        raise OSError(f"cannot listen on {host} port {port}: {why}") from error


def _settings(app: ASGIApp) -> uvicorn.Config:
    drain = app.config.server.drain if isinstance(app, App) else 0
    _name_statuses()
    return uvicorn.Config(
        app,
        http=Protocol,
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        ws="none",
        lifespan="on" if isinstance(app, App) else "auto",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        date_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=math.ceil(drain) + AFTER_DRAIN,
    )


def _name_statuses() -> None:
    """Give every status a reason phrase, 529 above all.

    The SDKs of 2023 show their users nothing but status and phrase ("529 undefined").
    """
    table = httptools_impl.STATUS_LINE
    for status, line in table.items():
        if line.endswith(b" \r\n"):
            general = "Server Error" if status >= 500 else "Unknown"  # noqa: PLR2004
            phrase = _PHRASES.get(status, general)
            table[status] = f"HTTP/1.1 {status} {phrase}\r\n".encode()


def _log_to_stderr() -> None:
    level = os.environ.get("PROXY_LOG_LEVEL", "INFO").upper()
    if level not in logging.getLevelNamesMapping():
        raise OSError(f"PROXY_LOG_LEVEL is {level!r}, which is no level such as INFO or WARNING")
    # Our lines name neither threads nor processes, and asking for them at each is dear.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler()
    handler.setFormatter(_Format("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
    logging.getLogger("uvicorn.error").addFilter(_told_by_record)


class _Format(logging.Formatter):
    """Lines with their time, whose seconds are written once for all that fall into one."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        assert datefmt is None  # noqa: S101
        return f"{_second(int(record.created))},{int(record.msecs):03}"


@lru_cache(maxsize=1)
def _second(second: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))


def _told_by_record(record: logging.LogRecord) -> bool:
    """Whether uvicorn's line says what no record of an exchange does.

    A response that is cut on purpose is told there, and start and stop are told by us.
    """
    cut = "without completing response" in record.getMessage()
    return record.levelno >= logging.WARNING and not cut


def _ready(address: str) -> None:
    _collect_seldom()
    _print_ready(address)


def _print_ready(address: str) -> None:
    print(f"anthropic-version-proxy listens on {address}", flush=True)  # noqa: T201


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
