"""A client at the proxy's door, what it sends there, and an upstream that waits behind it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from proxy.app import App
from proxy.connection import protocol
from proxy.exchange import guard
from proxy.server.server import running
from support import PATIENCE, Play, Side, connect, raw_upstream, settings

CANARY = b"sk-ant-canary"
"""Stands in what is refused, and must never stand in the log."""

GET = b"GET /v1/models HTTP/1.1\r\nhost: proxy\r\nanthropic-version: 2023-06-01\r\n"
POST = b"POST /v1/files HTTP/1.1\r\nhost: proxy\r\nanthropic-version: 2023-06-01\r\n"
COMPLETE = b"POST /v1/complete HTTP/1.1\r\nhost: proxy\r\nx-api-key: k\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

LOOP = b",".join([b"1.1 anthropic-version-proxy"] * guard.ROUNDS)

More = dict[str, dict[str, object]]


class Upstream:
    """An upstream that answers each request once it may, and remembers what it was asked."""

    def __init__(self, answer: bytes = OK, *, open: bool = True) -> None:  # noqa: A002
        self.asked: list[bytes] = []
        self.bodies: list[bytes] = []
        self.reached = asyncio.Event()
        self.left = asyncio.Event()
        self.may_answer = asyncio.Event()
        self._answer = answer
        if open:
            self.may_answer.set()

    async def play(self, side: Side) -> None:
        try:
            while True:
                head, body = await side.request()
                self.asked.append(head)
                self.bodies.append(body)
                self.reached.set()
                rest = asyncio.create_task(side.reader.read(1))
                answer = asyncio.create_task(self.may_answer.wait())
                await asyncio.wait({rest, answer}, return_when=asyncio.FIRST_COMPLETED)
                for task in (rest, answer):
                    task.cancel()
                if rest.done() and not rest.cancelled():
                    return
                await asyncio.wait({rest, answer})
                await side.say(self._answer)
        finally:
            self.left.set()


@asynccontextmanager
async def at_the_door(play: Play, more: More | None = None) -> AsyncIterator[Side]:
    """A client at the proxy's door, with an upstream behind it that is played by ``play``."""
    async with (
        raw_upstream(play) as base,
        running(App(settings(base, more=more))) as url,
        await connect(url) as client,
    ):
        yield client


@asynccontextmanager
async def door(upstream: Upstream, more: More | None = None) -> AsyncIterator[Side]:
    """A client at the proxy's door, with ``upstream`` behind it."""
    async with at_the_door(upstream.play, more) as client:
        yield client


@asynccontextmanager
async def serving(application: ASGIApp) -> AsyncIterator[Side]:
    """A client of an application that is not the proxy."""

    async def answers(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await application(scope, receive, send)

    async with running(answers) as url, await connect(url) as client:
        yield client


def message(answer: bytes, status: int, type_: str = "invalid_request_error") -> str:
    """The message of a refusal, which must be whole, in the API's envelope, and the last word."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"
    assert "content-type: application/json" in lines
    assert f"content-length: {len(body)}" in lines
    assert "connection: close" in lines
    assert "via: 1.1 anthropic-version-proxy" in lines
    return envelope(body, type_)


def envelope(body: bytes, type_: str) -> str:
    """The message of an error in exactly the API's keys."""
    error = json.loads(body)
    told = error["error"]["message"]
    assert error == {"type": "error", "error": {"type": type_, "message": told}}
    assert isinstance(told, str)
    return told


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What an operator reads in the log, but for how the server starts and stops."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "proxy.exchanges" or record.levelno >= logging.WARNING
    ]


async def answer(client: Side) -> tuple[bytes, bytes]:
    """The head and body of one answer on a connection that stays."""
    return await client.request()


def with_target(target: bytes, method: bytes = b"GET") -> bytes:
    """A request in which only ``target`` is wrong."""
    return b"%b %b HTTP/1.1\r\nhost: %b\r\n\r\n" % (method, target, CANARY)


def shorten(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Shorten a deadline of the protocol to 50 ms."""
    monkeypatch.setattr(protocol, name, 0.05)


async def deadline_passes(client: Side) -> None:
    """Wait until a connection opened now is closed: by then the deadline of ``client`` is over."""
    host, port = client.writer.get_extra_info("peername")[:2]
    async with await connect(f"http://{host}:{port}") as other:
        assert await other.rest() == b""


async def trickle(client: Side, part: bytes) -> bytes:
    """Send ``part`` again and again until the server has had enough; returns its last words.

    One that closes without a word may do so while more is on its way, which is a reset then.
    """
    last_words = asyncio.create_task(client.rest())
    while not last_words.done():
        client.writer.write(part)
        await asyncio.wait({last_words}, timeout=0.01)
    with suppress(ConnectionResetError):
        return last_words.result()
    return b""


async def stay(client: Side) -> None:
    """Go on sending until the connection is gone."""
    with suppress(ConnectionError):
        async with asyncio.timeout(PATIENCE):
            while True:
                await client.say(b"x")
                await asyncio.sleep(0)
