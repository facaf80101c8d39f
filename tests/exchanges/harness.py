"""A proxy for whole exchanges, its log, and upstreams that answer or wait."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from unittest.mock import AsyncMock

from starlette.types import Send

from proxy.app import App
from proxy.exchange.client import Client
from proxy.exchange.extensions import CONNECTION, Connection
from proxy.server.server import running
from support import (
    LAST,
    PATIENCE,
    STREAM_HEAD,
    Play,
    Side,
    chunk,
    completion,
    happened,
    old_request,
    raw_upstream,
    settings,
)


class Exchanges(logging.Handler):
    """The lines that the proxy logs of its exchanges, to be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: asyncio.Queue[str] = asyncio.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.put_nowait(record.getMessage())

    async def line(self) -> str:
        """The next line."""
        async with asyncio.timeout(PATIENCE):
            return await self._lines.get()


@asynccontextmanager
async def proxy_to(
    play: Play, more: dict[str, dict[str, object]] | None = None
) -> AsyncIterator[tuple[App, str]]:
    """The proxy in front of an upstream that is played by ``play``."""
    async with raw_upstream(play) as upstream:
        app = App(settings(upstream, more=more))
        async with running(app) as url:
            yield app, url


class Gate:
    """An upstream whose connections wait to be let on, and say when they were closed."""

    def __init__(self, *before: bytes) -> None:
        self.asked = asyncio.Event()
        self.closed = asyncio.Event()
        self._before = before

    async def play(self, side: Side) -> None:
        await side.request()
        for part in self._before:
            await side.say(part)
        self.asked.set()
        assert await side.rest() == b""
        self.closed.set()

    async def wait_closed(self) -> None:
        await happened(self.closed)


MUCH = STREAM_HEAD + completion(" Hi") + completion("x" * (7 << 20)) + LAST + chunk(b"")
"""More than a client has room for that does not read, whole in one piece but for its beginning."""


@asynccontextmanager
async def stuck(url: str) -> AsyncIterator[Side]:
    """A client that has taken but the beginning of MUCH."""
    host, _, port = url.removeprefix("http://").partition(":")
    async with Side(*await asyncio.open_connection(host, int(port), limit=1 << 10)) as client:
        await client.say(old_request())
        await client.until(b'"completion":" Hi"')
        await client.until(b'"completion":" Hix')
        yield client


def client_with(send: Send, connection: Connection | None = None) -> Client:
    """A client whose head was sent, and to whom the rest goes by ``send`` or a ``connection``."""
    extensions = {} if connection is None else {CONNECTION: connection}
    scope = {
        "method": "POST",
        "raw_path": b"/",
        "query_string": b"",
        "headers": [],
        "extensions": extensions,
    }
    client = Client(scope, AsyncMock(), send)
    client.started = True
    return client
