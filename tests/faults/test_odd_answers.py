"""Answers that are odd and good, and whether their connection may be used again."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Callable

import pytest

from faults.answers import (
    FAILED,
    check_finished,
    check_good,
    check_refused,
    endings,
    parsed,
    unchunked,
    with_length,
)
from faults.kinds import BYTES, END, EXCHANGES, TRANSLATED, UPLOAD, WHOLE, Exchange
from faults.proxies import Proxy
from proxy.core.jsontext import MOST_AT_ONCE
from support import STREAM_HEAD, Side

pytestmark = pytest.mark.anyio


def zipped(exchange: Exchange) -> bytes:
    head, body = unchunked(exchange)
    body = gzip.compress(body)
    fields = b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(body)
    return head[:-2] + fields + body


KEPT = b"\r\nconnection: keep-alive\r\n"
INTERIM = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"

ODD: dict[str, tuple[Callable[[Exchange], bytes], bool, tuple[Exchange, ...]]] = {
    "nothing odd": (lambda exchange: exchange.good, True, EXCHANGES),
    "some interim heads": (lambda exchange: INTERIM * 9 + exchange.good, True, EXCHANGES),
    "a length": (with_length, True, EXCHANGES),
    "a trailer": (lambda exchange: exchange.good[:-2] + b"x-a: b\r\n\r\n", True, EXCHANGES),
    "gzip": (zipped, True, TRANSLATED),
    "its own last one": (
        lambda exchange: with_length(exchange, b"connection: close\r\n"),
        False,
        EXCHANGES,
    ),
    "HTTP/1.0": (
        lambda exchange: with_length(exchange).replace(b"/1.1", b"/1.0", 1),
        False,
        EXCHANGES,
    ),
    "chunks in HTTP/1.0": (
        lambda exchange: exchange.good.replace(b"/1.1", b"/1.0", 1).replace(b"\r\n", KEPT, 1),
        False,
        EXCHANGES,
    ),
    "a second answer": (lambda exchange: exchange.good + with_length(WHOLE), False, EXCHANGES),
    "half a second answer": (lambda exchange: exchange.good + b"HTTP/1.1 2", False, EXCHANGES),
    "garbage behind": (lambda exchange: with_length(exchange) + b"xyz", False, EXCHANGES),
}
"""How an upstream words a good answer, whether its connection is used on, and where."""


@pytest.mark.parametrize(
    ("odd", "exchange"),
    [
        pytest.param(odd, exchange, id=f"{odd}-{exchange.name}")
        for odd, (_, _, exchanges) in ODD.items()
        for exchange in exchanges
    ],
)
async def test_an_odd_answer_is_an_answer_and_only_that(
    proxy: Proxy, log: pytest.LogCaptureFixture, odd: str, exchange: Exchange
) -> None:
    answer, kept, _ = ODD[odd]
    upstream = proxy.upstream

    async def play(side: Side) -> None:
        await upstream.answer(side, answer(exchange))
        await (upstream.behave(side) if kept else side.rest())

    upstream.good = exchange.good
    async with proxy.nothing_left():
        upstream.scripts.append(play)
        connections = upstream.connections
        for _ in range(2):
            got = await proxy.ask(exchange.request)
            check_good(exchange, got)
            assert b"\r\nx-a: " not in got  # a field of a trailer, which nobody has checked
        assert upstream.connections - connections == (1 if kept else 2)
    assert endings(log) == ["ended=complete"] * 2


@pytest.mark.parametrize("exchange", TRANSLATED, ids=lambda exchange: exchange.name)
async def test_gzip_that_ends_early_is_no_whole_answer(
    proxy: Proxy, log: pytest.LogCaptureFixture, exchange: Exchange
) -> None:
    """Its framing does not tell, and all that can be read of one body is JSON."""
    head, body = unchunked(exchange)
    if exchange.streams:
        body = parsed(b"".join(exchange.parts[:2]) + END).body
    zipper = zlib.compressobj(wbits=31)
    body = zipper.compress(body) + zipper.flush(zlib.Z_SYNC_FLUSH)
    fields = b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(body)
    proxy.upstream.good = head[:-2] + fields + body
    async with proxy.nothing_left():
        got = await proxy.ask(exchange.request)
    message = "upstream's answer ends before its content-encoding does"
    if exchange.streams:
        check_finished(got, FAILED, message)
    else:
        check_refused(got, 502, FAILED, message)
    assert endings(log) == [f'ended="upstream failed" error="{FAILED}: {message}"']


@pytest.mark.parametrize(
    "exchange", [each for each in TRANSLATED if each.streams], ids=lambda exchange: exchange.name
)
async def test_gzip_that_ends_early_behind_the_end_of_a_stream_is_no_failure(
    proxy: Proxy, log: pytest.LogCaptureFixture, exchange: Exchange
) -> None:
    head, body = unchunked(exchange)
    zipper = zlib.compressobj(wbits=31)
    body = zipper.compress(body) + zipper.flush(zlib.Z_SYNC_FLUSH)
    fields = b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(body)
    proxy.upstream.good = head[:-2] + fields + body
    async with proxy.nothing_left():
        check_good(exchange, await proxy.ask(exchange.request))
    assert endings(log) == ["ended=complete"]


@pytest.mark.parametrize("exchange", TRANSLATED, ids=lambda exchange: exchange.name)
async def test_an_error_of_very_many_values_is_not_read(proxy: Proxy, exchange: Exchange) -> None:
    """Its status says enough; a megabyte of them took a tenth of a second."""
    lists = b",".join([b"[]"] * MOST_AT_ONCE)
    body = b'{"error":{"type":"api_error","message":"So much:"},"what":[%b]}' % lists
    head = b"HTTP/1.1 500 No\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    upstream = proxy.upstream

    async def play(side: Side) -> None:
        await upstream.answer(side, head % len(body) + body)
        await upstream.behave(side)

    async with proxy.nothing_left():
        upstream.scripts.append(play)
        got = await proxy.ask(exchange.request)
    check_refused(got, 500, FAILED, "upstream answered 500")


@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: exchange.name)
async def test_an_answer_may_last_until_the_connection_does(
    proxy: Proxy, log: pytest.LogCaptureFixture, exchange: Exchange
) -> None:
    upstream = proxy.upstream

    async def play(side: Side) -> None:
        await upstream.answer(side, b"".join(unchunked(exchange)))

    async with proxy.nothing_left():
        upstream.scripts.append(play)
        check_good(exchange, await proxy.ask(exchange.request))
    assert endings(log) == ["ended=complete"]


@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: exchange.name)
async def test_an_answer_may_come_a_byte_at_a_time(
    proxy: Proxy, log: pytest.LogCaptureFixture, exchange: Exchange
) -> None:
    async def play(side: Side) -> None:
        await side.request()
        for at in range(len(exchange.good)):
            await side.say(exchange.good[at : at + 1])
            await asyncio.sleep(0)

    async with proxy.nothing_left():
        proxy.upstream.scripts.append(play)
        check_good(exchange, await proxy.ask(exchange.request))
    assert endings(log) == ["ended=complete"]


GET = b"%b /v1/models HTTP/1.1\r\nhost: proxy\r\nconnection: close\r\n\r\n"

PASSED = {
    "a length without a body": (GET % b"HEAD", b"200 OK\r\ncontent-length: 77\r\n\r\n", False),
    "a body that HEAD forbids": (
        GET % b"HEAD",
        b"200 OK\r\ncontent-length: 2\r\n\r\nok",
        False,
    ),
    "nothing": (GET % b"GET", b"204 No Content\r\n\r\n", False),
    "nothing, of some length": (GET % b"GET", b"204 No\r\ncontent-length: 5\r\n\r\n", False),
    "not modified": (GET % b"GET", b"304 Same\r\ncontent-length: 77\r\n\r\n", False),
    "a redirection": (
        GET % b"GET",
        b"307 There\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
        True,
    ),
    "the head of a stream without end": (GET % b"HEAD", STREAM_HEAD.partition(b" ")[2], False),
    "more than its length": (GET % b"GET", b"200 OK\r\ncontent-length: 2\r\n\r\nokay", False),
    "an answer that did not wait": (UPLOAD, b"413 Large\r\ncontent-length: 0\r\n\r\n", False),
}
"""What is asked, how it is answered, whether that leaves the connection fit for the next.

Where there may be no body, one that some servers send all the same may still be under way.
"""


@pytest.mark.parametrize(("request_", "answer", "kept"), PASSED.values(), ids=PASSED.keys())
async def test_bytes_pass_with_whatever_framing(
    proxy: Proxy, log: pytest.LogCaptureFixture, request_: bytes, answer: bytes, kept: bool
) -> None:
    upstream = proxy.upstream

    async def play(side: Side) -> None:
        await side.head()
        await side.say(b"HTTP/1.1 " + answer)
        await (upstream.behave(side) if kept else side.rest())

    upstream.good = BYTES.good
    async with proxy.nothing_left():
        upstream.scripts.append(play)
        connections = upstream.connections
        got = await proxy.ask(request_)
        assert got.split(b" ")[1] == answer.split(b" ")[0]
        check_good(BYTES, await proxy.ask(BYTES.request))
        assert upstream.connections - connections == (1 if kept else 2)
    assert "crashed" not in str(endings(log))
