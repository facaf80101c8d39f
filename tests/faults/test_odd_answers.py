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
from faults.exchanges import BYTES, END, ROADS, TRANSLATED, UPLOAD, WHOLE, Road
from faults.proxies import Proxy
from proxy.core.jsontext import MOST_AT_ONCE
from support import STREAM_HEAD, Side

pytestmark = pytest.mark.anyio


def zipped(road: Road) -> bytes:
    head, body = unchunked(road)
    body = gzip.compress(body)
    fields = b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(body)
    return head[:-2] + fields + body


KEPT = b"\r\nconnection: keep-alive\r\n"
INTERIM = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"

ODD: dict[str, tuple[Callable[[Road], bytes], bool, tuple[Road, ...]]] = {
    "nothing odd": (lambda road: road.good, True, ROADS),
    "some interim heads": (lambda road: INTERIM * 9 + road.good, True, ROADS),
    "a length": (with_length, True, ROADS),
    "a trailer": (lambda road: road.good[:-2] + b"x-a: b\r\n\r\n", True, ROADS),
    "gzip": (zipped, True, TRANSLATED),
    "its own last one": (lambda road: with_length(road, b"connection: close\r\n"), False, ROADS),
    "HTTP/1.0": (lambda road: with_length(road).replace(b"/1.1", b"/1.0", 1), False, ROADS),
    "chunks in HTTP/1.0": (
        lambda road: road.good.replace(b"/1.1", b"/1.0", 1).replace(b"\r\n", KEPT, 1),
        False,
        ROADS,
    ),
    "a second answer": (lambda road: road.good + with_length(WHOLE), False, ROADS),
    "half a second answer": (lambda road: road.good + b"HTTP/1.1 2", False, ROADS),
    "garbage behind": (lambda road: with_length(road) + b"xyz", False, ROADS),
}
"""How an upstream words a good answer, whether its connection is used on, and the roads."""


@pytest.mark.parametrize(
    ("odd", "road"),
    [
        pytest.param(odd, road, id=f"{odd}-{road.name}")
        for odd, (_, _, roads) in ODD.items()
        for road in roads
    ],
)
async def test_an_odd_answer_is_an_answer_and_only_that(
    proxy: Proxy, log: pytest.LogCaptureFixture, odd: str, road: Road
) -> None:
    answer, kept, _ = ODD[odd]
    stage = proxy.stage

    async def play(side: Side) -> None:
        await stage.answer(side, answer(road))
        await (stage.behave(side) if kept else side.rest())

    stage.good = road.good
    async with proxy.nothing_left():
        stage.scripts.append(play)
        connections = stage.connections
        for _ in range(2):
            check_good(road, await proxy.ask(road.request))
        assert stage.connections - connections == (1 if kept else 2)
    assert endings(log) == ["ended=complete"] * 2


@pytest.mark.parametrize("road", TRANSLATED, ids=lambda road: road.name)
async def test_gzip_that_ends_early_is_no_whole_answer(
    proxy: Proxy, log: pytest.LogCaptureFixture, road: Road
) -> None:
    """Its framing does not tell, and all that can be read of one body is JSON."""
    head, body = unchunked(road)
    if road.streams:
        body = parsed(b"".join(road.parts[:2]) + END).body
    zipper = zlib.compressobj(wbits=31)
    body = zipper.compress(body) + zipper.flush(zlib.Z_SYNC_FLUSH)
    fields = b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(body)
    proxy.stage.good = head[:-2] + fields + body
    async with proxy.nothing_left():
        got = await proxy.ask(road.request)
    message = "upstream's answer ends before its content-encoding does"
    if road.streams:
        check_finished(got, FAILED, message)
    else:
        check_refused(got, 502, FAILED, message)
    assert endings(log) == [f'ended="upstream failed" error="{FAILED}: {message}"']


@pytest.mark.parametrize("road", TRANSLATED, ids=lambda road: road.name)
async def test_an_error_of_very_many_values_is_not_read(proxy: Proxy, road: Road) -> None:
    """Its status says enough; a megabyte of them took a tenth of a second."""
    lists = b",".join([b"[]"] * MOST_AT_ONCE)
    body = b'{"error":{"type":"api_error","message":"So much:"},"what":[%b]}' % lists
    head = b"HTTP/1.1 500 No\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    stage = proxy.stage

    async def play(side: Side) -> None:
        await stage.answer(side, head % len(body) + body)
        await stage.behave(side)

    async with proxy.nothing_left():
        stage.scripts.append(play)
        got = await proxy.ask(road.request)
    check_refused(got, 500, FAILED, "upstream answered 500")


@pytest.mark.parametrize("road", ROADS, ids=lambda road: road.name)
async def test_an_answer_may_last_until_the_connection_does(
    proxy: Proxy, log: pytest.LogCaptureFixture, road: Road
) -> None:
    stage = proxy.stage

    async def play(side: Side) -> None:
        await stage.answer(side, b"".join(unchunked(road)))

    async with proxy.nothing_left():
        stage.scripts.append(play)
        check_good(road, await proxy.ask(road.request))
    assert endings(log) == ["ended=complete"]


@pytest.mark.parametrize("road", ROADS, ids=lambda road: road.name)
async def test_an_answer_may_come_a_byte_at_a_time(
    proxy: Proxy, log: pytest.LogCaptureFixture, road: Road
) -> None:
    async def play(side: Side) -> None:
        await side.request()
        for at in range(len(road.good)):
            await side.say(road.good[at : at + 1])
            await asyncio.sleep(0)

    async with proxy.nothing_left():
        proxy.stage.scripts.append(play)
        check_good(road, await proxy.ask(road.request))
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
    stage = proxy.stage

    async def play(side: Side) -> None:
        await side.head()
        await side.say(b"HTTP/1.1 " + answer)
        await (stage.behave(side) if kept else side.rest())

    stage.good = BYTES.good
    async with proxy.nothing_left():
        stage.scripts.append(play)
        connections = stage.connections
        got = await proxy.ask(request_)
        assert got.split(b" ")[1] == answer.split(b" ")[0]
        check_good(BYTES, await proxy.ask(BYTES.request))
        assert stage.connections - connections == (1 if kept else 2)
    assert "crashed" not in str(endings(log))
