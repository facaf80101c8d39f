"""One request behind the other: each is answered in its turn, and nothing is taken for another."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

import pytest
from starlette.types import Receive, Scope, Send

from door.harness import (
    CHUNKED,
    COMPLETE,
    GET,
    LOOP,
    OK,
    POST,
    Upstream,
    answer,
    at_the_door,
    deadline_passes,
    door,
    message,
    serving,
    shorten,
    with_target,
)
from proxy.connection import intake, protocol, terms
from proxy.server import settings as server_settings
from support import Side, chunk, happened

pytestmark = pytest.mark.anyio


async def test_pipelined_requests_are_answered_in_order() -> None:
    upstream = Upstream()
    async with door(upstream) as client:
        await client.say(b"".join(GET + b"x-a: %d\r\n\r\n" % number for number in range(20)))
        for _ in range(20):
            assert (await answer(client))[1] == b"ok"
    asked = [int(head.partition(b"x-a: ")[2].split()[0]) for head in upstream.asked]
    assert asked == list(range(20))


REFUSED_BEHIND = {
    "no request": b"what?\r\n\r\n",
    "broken body": COMPLETE + CHUNKED + b"no chunk",
    "refused head": with_target(b"http://evil.test/"),
}


@pytest.mark.parametrize("behind", REFUSED_BEHIND.values(), ids=REFUSED_BEHIND.keys())
async def test_a_refusal_waits_for_the_answers_before_it(
    monkeypatch: pytest.MonkeyPatch, behind: bytes
) -> None:
    monkeypatch.setattr(server_settings, "KEEP_ALIVE", 0.05)
    for name in ("HEAD_WITHIN", "BODY_SILENCE"):
        shorten(monkeypatch, name)
    upstream = Upstream(open=False)
    async with door(upstream) as client:
        await client.say(GET + b"\r\n" + behind)
        await happened(upstream.reached)
        await deadline_passes(client)
        upstream.may_answer.set()
        head, body = await answer(client)
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert body == b"ok"
        message(await client.rest(), 400)
    assert len(upstream.asked) == 1


@pytest.mark.parametrize(
    ("field", "status"), [(b"host: other\r\n", 400), (b"via: %b\r\n" % LOOP, 508)]
)
async def test_a_refusal_is_not_taken_for_what_the_answer_before_it_tells(
    caplog: pytest.LogCaptureFixture, field: bytes, status: int
) -> None:
    """It stands so far behind that it is read when one of those before it is answered."""
    amount = 3 * terms.PIPELINED
    request = GET + field + b"x-pad: " + b"x" * (terms.PIECE // terms.PIPELINED) + b"\r\n\r\n"
    async with door(Upstream()) as client:
        await client.say(request * amount + b"what?\r\n\r\n")
        for _ in range(amount):
            assert (await answer(client))[0].startswith(b"HTTP/1.1 %d " % status)
        assert "HTTP/1.1" in message(await client.rest(), 400)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_nothing_is_read_behind_a_part_of_a_request_that_was_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Event loops close a connection when a read fails, but not when a later turn does."""
    read = protocol.Protocol._read
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    begun = asyncio.Event()
    ends: list[str] = []

    def forgetful(self: protocol.Protocol, data: bytes) -> None:
        if b"lost" in data:
            raise MemoryError
        read(self, data)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        while (message := await receive()).get("more_body", False):
            pass
        ends.append(message["type"])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    monkeypatch.setattr(intake, "SLICE", 0)
    monkeypatch.setattr(protocol.Protocol, "_read", forgetful)
    size = terms.PIECE - 7  # so that each piece is a chunk
    parts = [chunk(part.ljust(size)) for part in (b"first", b"lost", b"last")]
    async with serving(application) as client:
        await client.say(POST + CHUNKED)
        await begun.wait()
        await client.say(b"".join(parts) + chunk(b""))
        with suppress(ConnectionError):
            assert not await client.rest()
    assert ends == ["http.disconnect"]


async def test_nothing_is_served_behind_a_request_that_was_to_be_the_last() -> None:
    upstream = Upstream()
    async with door(upstream) as client:
        await client.say(GET + b"connection: close\r\n\r\n" + GET + b"\r\n")
        assert (await client.rest()).count(b"HTTP/1.1 ") == 1
    assert len(upstream.asked) == 1


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_what_comes_behind_the_last_request_resets_no_answer(version: bytes) -> None:
    """A client that is told so while it writes may throw away what it has not read yet."""
    async with door(Upstream()) as client:
        await client.say(GET.replace(b"1.1", version) + b"connection: close\r\n\r\n")
        assert (await client.rest()).endswith(b"\r\n\r\nok")
        for _ in range(3):  # the first would be answered by a reset, and another would be told
            await client.say(b"more")


LAST = b"0\r\nconnection: close\r\n\r\n"
"""A trailer that has no business to say so, and to the parser says it (RFC 9110 §6.5.1)."""


async def test_a_trailer_that_ends_the_connection_is_heeded() -> None:
    async def play(side: Side) -> None:
        await side.reader.readuntil(b"\r\n0\r\n\r\n")
        await side.say(OK)
        assert await side.rest() == b""

    async with at_the_door(play) as client:
        await client.say(POST + CHUNKED + chunk(b"hi") + LAST + GET + b"\r\n")
        told = await client.rest()
    assert b"\r\nconnection: close\r\n" in told
    assert told.endswith(b"\r\n\r\nok")


async def test_a_trailer_that_ends_the_connection_after_the_answer_is_heeded() -> None:
    async def play(side: Side) -> None:
        await side.head()
        await side.say(OK)
        await side.rest()

    async with at_the_door(play) as client:
        await client.say(POST + CHUNKED)
        assert (await answer(client))[1] == b"ok"
        await client.say(LAST)
        assert await client.rest() == b""


async def test_what_follows_an_upgrade_that_is_not_taken_is_the_next_request() -> None:
    upstream = Upstream()
    async with door(upstream) as client:
        upgrade = b"connection: upgrade\r\nupgrade: h2c\r\n\r\n"
        await client.say((GET + upgrade) * 3 + GET + b"\r\n")
        for _ in range(4):
            assert (await answer(client))[1] == b"ok"
    assert len(upstream.asked) == 4


@pytest.mark.parametrize(("offer", "answers"), [(b"upgrade", 3), (b"upgrade, close", 1)])
async def test_a_body_behind_an_upgrade_that_is_not_taken_is_read(
    offer: bytes, answers: int
) -> None:
    """Java's HttpClient offers h2c in each request, with a length in those without a body."""
    upstream = Upstream()
    post = POST + b"upgrade: h2c\r\ncontent-length: 5\r\nconnection: " + offer + b"\r\n\r\nhello"
    async with door(upstream) as client:
        await client.say(post * 2 + GET + b"\r\n")
        for _ in range(answers):
            assert (await answer(client))[1] == b"ok"
    assert upstream.bodies == [b"hello", b"hello", b""][:answers]


async def test_a_body_behind_an_upgrade_whose_framing_is_none_is_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of a coding with a tab behind it, the parser says so only when it is to read the body."""
    upstream = Upstream()
    upgrade = b"connection: upgrade\r\nupgrade: h2c\r\n"
    async with door(upstream) as client:
        await client.say(COMPLETE + upgrade + b"transfer-encoding: chunked\t\r\n\r\n0\r\n\r\n")
        message(await client.rest(), 400)
    assert not upstream.asked
    assert not caplog.records
