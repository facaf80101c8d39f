"""Bodies of both ways: each part crosses at once, and what breaks off does not look whole."""

from __future__ import annotations

import asyncio
import json

import pytest

from exchanges.harness import Exchanges, Gate, proxy_to
from proxy.exchange.exchange import RESENDABLE
from support import PATIENCE, STREAM_HEAD, Side, chunk, completion, connect, happened, old_request

pytestmark = pytest.mark.anyio


async def test_the_first_snapshot_arrives_before_the_upstream_says_more() -> None:
    gate = Gate(STREAM_HEAD, completion(" Hi"))
    async with proxy_to(gate.play) as (_, url), await connect(url) as client:
        await client.say(old_request())
        head = await client.head()
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"transfer-encoding: chunked\r\n" in head
        assert b'data: {"completion":" Hi","stop":null' in await client.until(b"}\r\n\r\n")


@pytest.mark.parametrize("status", [200, 529])
async def test_bytes_that_pass_through_are_not_collected(status: int) -> None:
    """Each part of a large upload and of a download arrives before the next one is sent."""
    size = RESENDABLE + 8
    up, down = asyncio.Event(), asyncio.Event()

    async def play(side: Side) -> None:
        head = await side.head()
        assert head.startswith(b"POST /v1/files?a=%2F&a=b HTTP/1.1\r\n")
        assert b"content-length: %d\r\n" % size in head.lower()
        assert (await side.reader.readexactly(size - 4)).endswith(b"here")
        up.set()
        assert await side.reader.readexactly(4) == b"ends"
        await side.say(b"HTTP/1.1 %d X\r\ncontent-length: 8\r\n\r\nback" % status)
        await down.wait()
        await side.say(b"more")

    async with proxy_to(play) as (_, url), await connect(url) as client:
        await client.say(
            b"POST /v1/files?a=%%2F&a=b HTTP/1.1\r\nhost: proxy\r\n"
            b"anthropic-version: 2023-06-01\r\ncontent-length: %d\r\n\r\n" % size
        )
        await client.say(b"x" * RESENDABLE + b"here")
        await happened(up)
        await client.say(b"ends")
        phrase = {200: b"OK", 529: b"Overloaded"}[status]
        assert (await client.head()).startswith(b"HTTP/1.1 %d %b\r\n" % (status, phrase))
        assert await client.reader.readexactly(4) == b"back"
        down.set()
        assert await client.reader.readexactly(4) == b"more"


async def test_a_large_body_crosses_both_ways_whole() -> None:
    size = 40 << 20

    async def play(side: Side) -> None:
        head = await side.head()
        assert b"transfer-encoding: chunked\r\n" in head.lower()
        received = 0
        while length := int(await side.until(b"\r\n"), 16):
            received += len((await side.reader.readexactly(length + 2))[:-2])
        await side.reader.readexactly(2)
        body = json.dumps({"received": received}).encode()
        await side.say(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (size + len(body)))
        for _ in range(size >> 20):
            await side.say(b"x" * (1 << 20))
        await side.say(body)

    async with proxy_to(play) as (_, url), await connect(url) as client:
        await client.say(
            b"POST /v1/files HTTP/1.1\r\nhost: proxy\r\nanthropic-version: 2023-06-01\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        for _ in range(size >> 20):
            await client.say(chunk(b"y" * (1 << 20)))
        await client.say(chunk(b""))
        await client.head()
        async with asyncio.timeout(PATIENCE * 3):
            await client.reader.readexactly(size)
        assert await client.until(b"}") == b'{"received": %d}' % size


async def test_a_download_that_breaks_off_does_not_look_whole(log: Exchanges) -> None:
    async def play(side: Side) -> None:
        await side.request()
        await side.say(STREAM_HEAD + chunk(b"event: message_start\n"))

    async with proxy_to(play) as (_, url), await connect(url) as client:
        await client.say(
            b"GET /v1/models HTTP/1.1\r\nhost: proxy\r\nanthropic-version: 2023-06-01\r\n\r\n"
        )
        got = await client.rest()
        assert got.endswith(b"\r\nevent: message_start\n\r\n")
        assert b"0\r\n\r\n" not in got
        assert 'ended="upstream failed"' in await log.line()


async def test_an_upload_goes_on_after_an_early_answer() -> None:
    end = chunk(b"")

    async def play(side: Side) -> None:
        await side.head()
        assert await side.until(chunk(b"part"))
        await side.say(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nsoon")
        rest = await side.until(end)
        assert rest in (chunk(b"part") + chunk(b"last") + end, chunk(b"partlast") + end)
        await side.say(b"done")

    async with proxy_to(play) as (_, url), await connect(url) as client:
        await client.say(
            b"POST /v1/files HTTP/1.1\r\nhost: proxy\r\nanthropic-version: 2023-06-01\r\n"
            b"transfer-encoding: chunked\r\n\r\n" + chunk(b"part")
        )
        await client.until(b"soon")
        await client.say(chunk(b"part"))
        await client.say(chunk(b"last") + end)
        assert await client.reader.readexactly(4) == b"done"
