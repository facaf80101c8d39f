"""The upstream as the proxy calls it, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from proxy.config import Timeouts
from proxy.upstream.answer import Answer
from proxy.upstream.upstream import Upstream
from support import STREAM_HEAD, Play, Side, chunk, settings


def said(data: bytes) -> Play:
    """An upstream that answers any request with ``data`` and then closes."""

    async def play(side: Side) -> None:
        await side.request()
        await side.say(data)

    return play


@asynccontextmanager
async def connected(url: str, **timeouts: float) -> AsyncIterator[Upstream]:
    """The upstream at ``url``, as the proxy sees it."""
    api = replace(settings(url).upstreams["api"], timeouts=Timeouts(**timeouts))
    upstream = Upstream(api)
    try:
        yield upstream
    finally:
        upstream.close()


async def ask(upstream: Upstream) -> Answer:
    """Ask for something."""
    return await upstream.call("GET", "/v1/models", [], None)


async def silent(side: Side) -> None:
    """Begin to answer, and say no more."""
    await side.request()
    await side.say(STREAM_HEAD + chunk(b"so far"))
    await side.rest()


async def says_nothing_and_stays(side: Side) -> None:
    """Answer with an empty body, on a connection that can be used on."""
    await side.request()
    await side.say(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    await side.rest()


def open_now() -> tuple[int, int]:
    """Tasks and files that are open."""
    return len(asyncio.all_tasks()), sum(1 for _ in Path("/proc/self/fd").iterdir())


ANSWER = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"


def named(url: str) -> str:
    """The same place, by a name."""
    return url.replace("127.0.0.1", "api.example")


def by_name(url: str) -> str:
    """The same place, by a name that the system knows."""
    return url.replace("127.0.0.1", "localhost")
