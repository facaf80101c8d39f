"""Whoever sends faster than it is read, or reads slower than it is sent to, is made to wait."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Receive, Scope, Send

from door.harness import CHUNKED, POST, serving
from proxy.connection import intake, terms
from proxy.exchange.extensions import CONNECTION

pytestmark = pytest.mark.anyio


async def test_however_much_is_pipelined_little_of_it_waits() -> None:
    request = POST + b"content-length: 0\r\n\r\n"
    amount = 2000
    waiting: list[int] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        waiting.append(scope["extensions"][CONNECTION]._pipeline.waiting)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with serving(application) as client:
        sending = asyncio.create_task(client.say(request * amount))
        for _ in range(amount):
            assert (await client.head()).startswith(b"HTTP/1.1 204 ")
        await sending
    one_reading = terms.PIECE // len(request) + 1
    assert max(waiting) <= terms.PIPELINED + one_reading


async def test_a_client_whose_body_nobody_takes_is_made_to_wait() -> None:
    part, parts = b"x" * (256 << 10), 100
    waiting: list[int] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        more = True
        while more:
            for _ in range(10):  # as long as it takes to read on, if that is done
                await asyncio.sleep(0)
            message = await receive()
            waiting.append(len(message["body"]))
            more = message["more_body"]
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with serving(application) as client:
        await client.say(POST + b"content-length: %d\r\n\r\n" % (parts * len(part)))
        sending = asyncio.create_task(client.say(part * parts))
        assert (await client.head()).startswith(b"HTTP/1.1 204 ")
        await sending
    assert sum(waiting) == parts * len(part)
    assert max(waiting) <= 1 << 20


async def test_a_client_that_is_slow_is_waited_for_each_time() -> None:
    part, parts = b"x" * (256 << 10), 100
    waiting: list[int] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        transport = scope["extensions"][CONNECTION].transport
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(parts):
            await send({"type": "http.response.body", "body": part, "more_body": True})
            waiting.append(transport.get_write_buffer_size())
        await send({"type": "http.response.body", "body": b""})

    async with serving(application) as client:
        await client.say(b"GET / HTTP/1.1\r\nhost: proxy\r\nconnection: close\r\n\r\n")
        assert (await client.rest()).endswith(b"\r\n0\r\n\r\n")
    assert len(waiting) == parts
    assert max(waiting) < 2 * len(part)


async def test_whoever_sends_much_at_once_lets_others_go_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(intake, "SLICE", 0)
    size = 100_000  # more than the event loop hands over at once
    parts: list[bytes] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive())["more_body"]:
            parts.append(message["body"])
        parts.append(message["body"])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with serving(application) as client:
        await client.say(POST + CHUNKED + b"1\r\nx\r\n" * size + b"0\r\n\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 204 ")
    assert b"".join(parts) == b"x" * size
    assert max(map(len, parts)) <= terms.PIECE


async def test_what_was_read_is_not_kept() -> None:
    kept: list[int] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["more_body"]:
            pass
        kept.append(len(scope["extensions"][CONNECTION]._intake._unread.obj))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    body = b"x" * 100_000
    async with serving(application) as client:
        await client.say(POST + b"content-length: %d\r\n\r\n" % len(body) + body)
        assert (await client.head()).startswith(b"HTTP/1.1 204 ")
    assert kept == [0]
