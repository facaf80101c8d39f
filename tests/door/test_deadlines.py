"""How long a client may take for its head, for its body, and between its requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from door.harness import (
    CHUNKED,
    COMPLETE,
    GET,
    OK,
    POST,
    Upstream,
    answer,
    at_the_door,
    deadline_passes,
    door,
    lines,
    message,
    serving,
    shorten,
    trickle,
)
from proxy.connection import intake, protocol, terms
from proxy.exchange.extensions import CONNECTION
from proxy.server import settings as server_settings
from support import PATIENCE, Side, chunk, happened

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("part", [b"", b"x"], ids=["silent", "trickled"])
@pytest.mark.parametrize("begun", [b"G", GET, GET + b"x-a: "], ids=["line", "fields", "value"])
async def test_a_head_has_its_time_and_no_more(
    monkeypatch: pytest.MonkeyPatch, begun: bytes, part: bytes
) -> None:
    shorten(monkeypatch, "HEAD_WITHIN")
    upstream = Upstream()
    if begun == b"G" and part:
        begun = b"GET /"
    async with door(upstream) as client:
        await client.say(begun)
        assert "head" in message(await trickle(client, part), 408, "timeout_error")
    assert not upstream.asked


async def test_the_head_of_a_later_request_has_its_time_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shorten(monkeypatch, "HEAD_WITHIN")
    async with door(Upstream()) as client:
        await client.say(GET + b"\r\n")
        await answer(client)
        await client.say(GET)
        message(await client.rest(), 408, "timeout_error")


async def test_a_head_that_is_made_to_wait_keeps_its_time(
    times_over: Callable[[], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch, "HEAD_WITHIN")
    amount = terms.PIPELINED + 2
    upstream = Upstream(open=False)
    async with door(upstream) as client:
        await client.say((GET + b"\r\n") * amount + GET)
        await times_over()
        await client.say(b"\r\n")
        upstream.may_answer.set()
        for _ in range(amount + 1):
            assert (await answer(client))[1] == b"ok"


@pytest.mark.parametrize("part", [b"", b"\r\n"], ids=["silent", "blank lines"])
@pytest.mark.parametrize("asked", [False, True], ids=["fresh", "used"])
async def test_a_connection_that_asks_nothing_is_closed_without_a_word(
    monkeypatch: pytest.MonkeyPatch, part: bytes, *, asked: bool
) -> None:
    monkeypatch.setattr(server_settings, "KEEP_ALIVE", 0.2)
    async with door(Upstream()) as client:
        if asked:
            await client.say(GET + b"\r\n")
            await answer(client)
        assert await trickle(client, part) == b""


async def test_an_exchange_has_no_deadline_of_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_settings, "KEEP_ALIVE", 0.05)
    for name in ("HEAD_WITHIN", "BODY_SILENCE"):
        shorten(monkeypatch, name)
    upstream = Upstream(open=False)
    async with door(upstream) as client:
        await client.say(GET + b"\r\n")
        await happened(upstream.reached)
        await deadline_passes(client)
        upstream.may_answer.set()
        assert (await answer(client))[1] == b"ok"


@pytest.mark.parametrize("framing", [b"content-length: 9\r\n\r\n{", CHUNKED, CHUNKED + b"3\r\n{"])
async def test_a_body_that_stalls_is_told_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, framing: bytes
) -> None:
    caplog.set_level(logging.INFO)
    shorten(monkeypatch, "BODY_SILENCE")
    upstream = Upstream()
    async with door(upstream) as client:
        await client.say(COMPLETE + framing)
        assert "body" in message(await client.rest(), 408, "timeout_error")
    assert not upstream.asked
    (line,) = lines(caplog)
    assert "status=408 ended=refused" in line


async def test_a_body_that_trickles_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch, "BODY_WITHIN")
    upstream = Upstream()
    async with door(upstream) as client:
        await client.say(COMPLETE + b"content-length: 900\r\n\r\n")
        assert "body" in message(await trickle(client, b"{"), 408, "timeout_error")
    assert not upstream.asked


async def test_a_body_that_stalls_ends_the_upstreams_call(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch, "BODY_SILENCE")
    cut = asyncio.Event()

    async def play(side: Side) -> None:
        await side.until(b"abc")
        await side.rest()
        cut.set()

    async with at_the_door(play) as client:
        await client.say(POST + CHUNKED + chunk(b"abc"))
        message(await client.rest(), 408, "timeout_error")
        await happened(cut)


async def test_a_body_that_stalls_after_the_answer_has_begun_cuts_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shorten(monkeypatch, "BODY_SILENCE")

    async def play(side: Side) -> None:
        await side.until(b"abc")
        await side.say(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nsoon")
        await side.rest()

    async with at_the_door(play) as client:
        await client.say(POST + CHUNKED + chunk(b"abc"))
        assert (await client.rest()).endswith(b"\r\n\r\nsoon")


async def test_a_body_of_http_1_0_that_stalls_after_the_answer_has_begun_cuts_it_visibly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its end would be the answer's, so that the connection is reset."""
    shorten(monkeypatch, "BODY_SILENCE")
    stream = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"

    async def play(side: Side) -> None:
        await side.until(b"abc")
        await side.say(stream + chunk(b"soon"))
        await side.rest()

    async with at_the_door(play) as client:
        await client.say(POST.replace(b"1.1", b"1.0") + b"content-length: 99999\r\n\r\nabc")
        assert (await client.head()).startswith(b"HTTP/1.1 200 OK\r\n")
        with pytest.raises(ConnectionResetError):
            await client.rest()


@pytest.fixture
def times_over(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Awaitable[None]]:
    """Waits until the time that a body has is over, and over again; from then on it is long.

    Else a machine that stops for so long would fail what comes afterwards.
    """
    shorten(monkeypatch, "BODY_SILENCE")
    over = asyncio.Event()
    expire: Callable[[Any], None] = protocol.Protocol._expire
    left = 3

    def counted(connection: protocol.Protocol) -> None:
        nonlocal left
        left -= 1
        if not left:
            for name in ("BODY_SILENCE", "BODY_WITHIN"):
                monkeypatch.setattr(protocol, name, PATIENCE)
            over.set()
        expire(connection)

    monkeypatch.setattr(protocol.Protocol, "_expire", counted)

    async def wait() -> None:
        await happened(over)

    return wait


@pytest.mark.parametrize("part", [b"", b"{"])
async def test_a_body_that_stalls_after_the_whole_answer_holds_no_connection(
    monkeypatch: pytest.MonkeyPatch, part: bytes
) -> None:
    shorten(monkeypatch, "BODY_SILENCE")
    async with door(Upstream()) as client:
        await client.say(
            GET.replace(b"/v1/models", b"/-/healthy") + b"content-length: 9\r\n\r\n" + part
        )
        assert b"healthy" in await client.rest()


async def test_a_body_that_the_upstream_does_not_take_does_not_stall(
    times_over: Callable[[], Awaitable[None]],
) -> None:
    size = 32 << 20

    async def play(side: Side) -> None:
        await side.head()
        await times_over()
        await side.reader.readexactly(size)
        await side.say(OK)

    async with at_the_door(play) as client:
        await client.say(POST + b"content-length: %d\r\n\r\n" % size)
        sending = asyncio.create_task(client.say(b"x" * size))
        assert (await answer(client))[1] == b"ok"
        await sending


@pytest.mark.parametrize(
    "begun",
    [b"content-length: 4\r\n\r\nab", b"expect: 100-continue\r\ncontent-length: 4\r\n\r\n"],
    ids=["begun", "asks first"],
)
@pytest.mark.parametrize("deadline", ["BODY_SILENCE", "BODY_WITHIN"])
async def test_a_body_that_nobody_reads_does_not_stall(
    times_over: Callable[[], Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
    begun: bytes,
    deadline: str,
) -> None:
    shorten(monkeypatch, deadline)
    reads = asyncio.Event()

    async def application(_: Scope, receive: Receive, send: Send) -> None:
        await times_over()
        reads.set()
        body, more = b"", True
        while more:
            part = await receive()
            body += part["body"]
            more = part["more_body"]
        assert body == b"abcd"
        fields = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send({"type": "http.response.body", "body": b"ok"})

    async with serving(application) as client:
        await client.say(POST + begun)
        await happened(reads)
        await client.say(b"cd" if begun.endswith(b"ab") else b"abcd")
        assert b"HTTP/1.1 200 OK\r\n" in await client.until(b"ok")


async def test_each_part_of_a_body_is_given_its_time_and_does_not_count_for_framing() -> None:
    size = 40 << 10
    dues: list[float] = []
    taken = asyncio.Semaphore(0)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        connection = scope["extensions"][CONNECTION]
        for _ in range(4):
            left = size
            while left:
                left -= len((await receive())["body"])
            dues.append(connection._alarm.due)
            taken.release()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with serving(application) as client:
        await client.say(POST + b"content-length: %d\r\n\r\n" % (size * 4))
        for _ in range(4):
            await client.say(b"x" * size)
            async with asyncio.timeout(PATIENCE):
                await taken.acquire()
        assert (await client.head()).startswith(b"HTTP/1.1 204 ")
    assert dues[:3] == sorted(set(dues[:3]))


async def test_each_kib_of_a_body_gives_it_a_second() -> None:
    dues: list[float] = []
    begun = asyncio.Event()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        connection = scope["extensions"][CONNECTION]
        dues.append(connection._body_due)
        begun.set()
        left = 10 << 10
        while left:
            left -= len((await receive())["body"])
        dues.append(connection._body_due)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with serving(application) as client:
        await client.say(POST + b"content-length: 20480\r\n\r\n")
        await happened(begun)
        await client.say(b"x" * (10 << 10))
        assert (await client.head()).startswith(b"HTTP/1.1 204 ")
    before, after = dues
    assert after - before == pytest.approx(10)


async def test_framing_that_arrives_by_itself_counts_to_the_next_part_of_the_body(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(intake, "PIECE", 2)
    body = b"1\r\nx\r\n" * 200 + b"0\r\n\r\n"

    async def play(side: Side) -> None:
        await side.until(b"0\r\n\r\n")
        await side.say(OK)

    async with at_the_door(play, {"limits": {"header_bytes": 300}}) as client:
        await client.say(POST + CHUNKED + body)
        assert (await answer(client))[1] == b"ok"
