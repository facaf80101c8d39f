"""Of what no exchange is counted for, only so much waits in memory."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Receive, Scope, Send

from door.harness import GET, POST, Upstream, answer, door, serving
from proxy.app import App
from proxy.connection import protocol, terms
from proxy.connection.budget import Budget
from proxy.exchange.extensions import CONNECTION
from proxy.server.server import running
from support import PATIENCE, Side, connect, happened, raw_upstream, settings, until

pytestmark = pytest.mark.anyio


def refused_for_room(answer: bytes) -> bool:
    return answer.startswith(b"HTTP/1.1 503 ") and b"\r\nretry-after: 1\r\n" in answer


async def test_of_heads_without_an_end_only_so_much_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """No exchange is counted before there is one; nobody else is to pay for it for long."""
    monkeypatch.setattr(protocol, "WAITING", 1000)
    begun = GET + b"x: " + b"y" * 600
    async with raw_upstream(Upstream().play) as base, running(App(settings(base))) as url:

        async def beginner() -> Side:
            client = await connect(url)
            await client.say(GET + b"\r\n" + begun)
            assert (await answer(client))[1] == b"ok"
            return client

        for _ in range(3):
            async with await beginner() as first:
                async with await beginner() as second:
                    assert refused_for_room(await second.rest())
                await first.say(b"\r\n\r\n")
                assert (await answer(first))[1] == b"ok"
        async with await beginner() as leaving:
            pass
        await leaving.rest()
        async with asyncio.timeout(PATIENCE):
            while True:
                async with await beginner() as last:
                    await last.say(b"\r\n\r\n")
                    if not refused_for_room(await last.head()):
                        break


async def two_are_answered(client: Side, upstream: Upstream, requests: bytes) -> None:
    """Send two requests at once, and have both answered when the first has gone upstream."""
    await client.say(requests)
    await happened(upstream.reached)
    upstream.may_answer.set()
    for _ in range(2):
        assert (await answer(client))[1] == b"ok"
    upstream.may_answer.clear()
    upstream.reached.clear()


async def test_of_requests_behind_others_only_so_much_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "WAITING", 2 * terms.REQUEST)
    request = GET + b"\r\n"
    upstream = Upstream(open=False)
    async with door(upstream) as client:
        for _ in range(3):
            await two_are_answered(client, upstream, request * 2)
        await client.say(request * 3)
        await happened(upstream.reached)
        upstream.may_answer.set()
        for _ in range(2):
            assert (await answer(client))[1] == b"ok"
        refused = await client.rest()
        assert refused_for_room(refused)
        assert refused.count(b"HTTP/1.1 ") == 1  # nobody gets an answer that was not asked for


def test_nobody_who_takes_no_more_is_refused_for_what_others_have_taken() -> None:
    room = Budget(3)
    assert room.take(2)
    assert not room.take(2)
    assert room.take(0)
    assert room.take(-1)
    assert room.taken == 3


async def test_the_bodies_of_requests_behind_others_wait_among_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nine of 64 KiB wait behind an answer of /-/ that its client does not take."""
    monkeypatch.setattr(protocol, "WAITING", 3 * terms.REQUEST)
    few, many = (POST + b"content-length: %d\r\n\r\n" % n + b"x" * n for n in (5_000, 20_000))
    upstream = Upstream(open=False)
    async with door(upstream) as client:
        for _ in range(3):
            await two_are_answered(client, upstream, GET + b"\r\n" + few)
        await client.say(GET + b"\r\n" + many)
        await happened(upstream.reached)
        upstream.may_answer.set()
        assert (await answer(client))[1] == b"ok"
        assert refused_for_room(await client.rest())


async def test_whoever_is_answered_waits_no_more() -> None:
    waiting: list[int] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        waiting.append(scope["extensions"][CONNECTION].config.waiting.taken)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with serving(application) as client:
        await client.say((GET + b"\r\n") * 2 + GET + b"connection: close\r\n\r\n")
        await client.rest()
    assert waiting[0] > waiting[1] > waiting[2] == 0


@pytest.mark.parametrize("room", [10_000, 100_000], ids=["refused", "let in"])
async def test_a_body_that_nobody_reads_waits_among_them_while_no_answer_is_taken(
    monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    monkeypatch.setattr(protocol, "WAITING", room)
    size, before = 20_000, b"y" * (32 << 20)  # more than the system keeps of it
    length = [(b"content-length", b"%d" % len(before))]
    begun: list[protocol.Protocol] = []
    arrived = asyncio.Event()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        connection = scope["extensions"][CONNECTION]
        if begun:
            cycle = connection.cycle
            await until(lambda: len(cycle.body) >= size or cycle.disconnected)
            arrived.set()
        begun.append(connection)
        await send({"type": "http.response.start", "status": 200, "headers": length})
        await send({"type": "http.response.body", "body": before})

    async with serving(application) as client:
        await client.say(GET + b"\r\n")
        await client.head()
        await client.say(POST + b"content-length: %d\r\n\r\n" % size + b"x" * size)
        await happened(arrived)
        connection = begun[0]
        if room < size:
            assert (connection.config.waiting.taken, len(connection.cycle.body)) == (0, 0)
            async with asyncio.timeout(PATIENCE):
                await client.reader.readexactly(len(before))
            assert refused_for_room(await client.rest())
        else:
            assert connection.config.waiting.taken == size
    assert connection.config.waiting.taken == 0


async def test_a_body_waits_no_more_once_its_answer_is_taken() -> None:
    """The answer may go on for an hour, in which nothing more is read from its client."""
    size, before = 20_000, b"y" * (32 << 20)  # more than the system keeps of it
    length = [(b"content-length", b"%d" % len(before))]
    waiting: list[int] = []
    arrived = asyncio.Event()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        connection = scope["extensions"][CONNECTION]
        if scope["method"] == "GET":
            await send({"type": "http.response.start", "status": 200, "headers": length})
            await send({"type": "http.response.body", "body": before})
            return
        await until(lambda: len(connection.cycle.body) >= size)
        await receive()
        waiting.append(connection.config.waiting.taken)
        arrived.set()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        waiting.append(connection.config.waiting.taken)
        await send({"type": "http.response.body", "body": b""})

    async with serving(application) as client:
        await client.say(GET + b"\r\n")
        await client.head()
        await client.say(POST + b"content-length: %d\r\n\r\n" % size + b"x" * size)
        await happened(arrived)
        async with asyncio.timeout(PATIENCE):
            await client.reader.readexactly(len(before))
        await client.head()
    assert waiting == [size, 0]


async def test_what_nobody_has_read_of_a_body_goes_with_its_answer() -> None:
    """The rest of it may be minutes in coming."""
    size = 20_000
    waiting: list[int] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        cycle = scope["extensions"][CONNECTION].cycle
        await until(lambda: len(cycle.body) >= size)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})
        waiting.append(len(cycle.body))

    async with serving(application) as client:
        await client.say(POST + b"content-length: %d\r\n\r\n" % (size + 1) + b"x" * size)
        assert (await client.head()).startswith(b"HTTP/1.1 204 ")
    assert waiting == [0]
