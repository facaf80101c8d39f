"""Who is connected when a drain begins: nobody is told nothing, and nobody is waited for long."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial

import pytest

from door.harness import LOOP, POST
from proxy.app import App
from proxy.connection import protocol
from proxy.server.listeners import address, listen
from proxy.server.server import TURNS, Server, _serving
from support import (
    LAST,
    PATIENCE,
    STREAM_HEAD,
    Side,
    chunk,
    completion,
    connect,
    old_request,
    raw_upstream,
    settings,
    until,
)

pytestmark = pytest.mark.anyio

HEALTHY = b"GET /-/healthy HTTP/1.1\r\nhost: proxy\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
MANY = 30
"""Connections that wait to be accepted: more than there are turns of the loop in a stop."""


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


@asynccontextmanager
async def serving(
    upstream: str = "http://127.0.0.1:9", drain: float = 30
) -> AsyncIterator[tuple[Server, str]]:
    """The proxy, with a way to tell it to stop; yields its base URL, too."""
    config = settings(upstream, more={"server": {"drain": drain}})
    with listen("127.0.0.1", 0) as listener:
        async with _serving(App(config), listener) as server:
            yield server, address(listener)


async def drain(server: Server) -> None:
    """Have a drain begin that ends by itself; returns once all connections were told."""
    app = server.app
    assert app is not None
    server.over.set()  # type: ignore[attr-defined]
    await until(lambda: not app.ready)
    for _ in range(2 * TURNS):  # in which the server reads what has arrived, and tells them
        await asyncio.sleep(0)


def connected(url: str) -> socket.socket:
    """A connection that the system has made, and nobody accepted: the event loop stands still."""
    host, _, port = url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE)


async def test_those_who_wait_to_be_accepted_are_answered() -> None:
    with ExitStack() as clients:
        async with serving() as (_, url):
            waiting = [clients.enter_context(connected(url)) for _ in range(MANY)]
            for client in waiting:
                client.sendall(HEALTHY)
        for client in waiting:
            answer = b"".join(iter(partial(client.recv, 1 << 10), b""))
            assert answer.startswith(OK)
            assert b"\r\nconnection: close\r\n" in answer  # or the next request would cross its end


async def test_clients_that_keep_coming_do_not_put_the_drain_off() -> None:
    came = 0
    async with serving() as (server, url):
        server.over.set()  # type: ignore[attr-defined]
        with ExitStack() as clients, suppress(ConnectionError):
            while came < 10 * MANY:
                clients.enter_context(connected(url)).sendall(HEALTHY)
                came += 1
                await asyncio.sleep(0)
    assert came < 10 * MANY


async def test_what_arrived_at_a_kept_connection_is_answered() -> None:
    async with serving() as (server, url), await connect(url) as client:
        await client.say(HEALTHY)
        await client.until(b"healthy\n")
        opened: socket.socket = client.writer.get_extra_info("socket")
        os.write(opened.fileno(), HEALTHY)  # while the loop stands still: it is not read yet
        await drain(server)
        assert OK in await client.rest()


@pytest.mark.parametrize("first", [0, 9, len(HEALTHY) - 1])
async def test_a_first_request_that_is_on_its_way_is_answered(first: int) -> None:
    async with serving() as (server, url), await connect(url) as client:
        await client.say(HEALTHY[:first])
        await until(lambda: _has_read(server, first))
        await drain(server)
        await client.say(HEALTHY[first:])
        answer = await client.rest()
        assert answer.startswith(OK)
        assert b"\r\nconnection: close\r\n" in answer


async def test_so_is_a_later_one_whose_head_is_incomplete() -> None:
    async with serving() as (server, url), await connect(url) as client:
        await client.say(HEALTHY)
        await client.until(b"healthy\n")
        await client.say(HEALTHY[:9])
        await until(lambda: _has_read(server, 9))
        await drain(server)
        await client.say(HEALTHY[9:])
        assert OK in await client.rest()


async def test_so_is_one_whose_body_is_on_its_way() -> None:
    request = old_request()

    async def play(side: Side) -> None:
        await side.request()
        await side.say(STREAM_HEAD + LAST + chunk(b""))
        await side.rest()

    async with (
        raw_upstream(play) as upstream,
        serving(upstream) as (server, url),
        await connect(url) as client,
    ):
        await client.say(request[:-9])
        await until(lambda: _reads_a_body(server))
        await drain(server)
        await client.say(request[-9:])
        answer = await client.rest()
        assert b"\r\nconnection: close\r\n" in answer
        assert answer.endswith(b"data: [DONE]\r\n\r\n\r\n0\r\n\r\n")


async def test_a_request_that_is_on_its_way_to_an_idle_connection_is_answered() -> None:
    """A balancer that gets no answer asks nobody else, for it may have been understood."""
    async with serving() as (server, url), await connect(url) as client:
        await client.say(HEALTHY)
        await client.until(b"healthy\n")
        await drain(server)
        await client.say(HEALTHY)
        answer = await client.rest()
        assert answer.startswith(OK)
        assert b"\r\nconnection: close\r\n" in answer


async def test_an_idle_connection_is_closed_as_soon_as_requests_would_only_be_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "ON_ITS_WAY", 2 * PATIENCE)
    monkeypatch.setattr("proxy.server.server.longest_stop", lambda _: 2 * PATIENCE)
    async with serving(drain=0) as (server, url), await connect(url) as client:
        await client.say(HEALTHY)
        await client.until(b"healthy\n")
        await drain(server)
        assert await client.rest() == b""


@pytest.mark.parametrize("drains", [False, True])
async def test_a_request_that_arrived_in_time_is_answered_though_the_loop_stood_still(
    drains: bool,
) -> None:
    """Timers are looked at before what has arrived."""
    async with serving() as (server, url), await connect(url) as client:
        await client.say(HEALTHY)
        await client.until(b"healthy\n")
        if drains:
            await drain(server)
        opened: socket.socket = client.writer.get_extra_info("socket")
        os.write(opened.fileno(), HEALTHY)
        (connection,) = server.server_state.connections
        connection._expire()  # type: ignore[union-attr]
        await client.until(OK)


@pytest.mark.parametrize(("said", "told"), [(b"", b""), (HEALTHY[:9], b"HTTP/1.1 408 ")])
async def test_whoever_asks_nothing_is_not_waited_for_long(
    said: bytes, told: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "ON_ITS_WAY", 0.01)
    monkeypatch.setattr(protocol, "LINGER", 0.01)
    async with serving() as (server, url), await connect(url) as client:
        await client.say(said)
        await until(lambda: _has_read(server, len(said)))
        await drain(server)
        assert (await client.rest()).startswith(told)


async def test_a_head_that_begins_in_a_drain_is_not_waited_for_long_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving() as (server, url), await connect(url) as client:
        await until(lambda: _has_read(server, 0))
        await drain(server)
        monkeypatch.setattr(protocol, "ON_ITS_WAY", 0.01)
        await client.say(HEALTHY[:9])
        assert (await client.rest()).startswith(b"HTTP/1.1 408 ")


@asynccontextmanager
async def streaming() -> AsyncIterator[tuple[Server, Side, asyncio.Event]]:
    """The proxy and a client whose stream has begun; it ends once the event is set."""
    go_on = asyncio.Event()

    async def play(side: Side) -> None:
        await side.request()
        await side.say(STREAM_HEAD + completion(" Hi"))
        await go_on.wait()
        await side.say(LAST + chunk(b""))
        await side.rest()

    async with (
        raw_upstream(play) as upstream,
        serving(upstream) as (server, url),
        await connect(url) as client,
    ):
        await client.say(old_request())
        await client.until(b"\r\n\r\n\r\n")
        yield server, client, go_on


@pytest.mark.parametrize("before", [0, 9, len(HEALTHY)])
async def test_what_is_asked_behind_a_stream_that_had_begun_is_answered(before: int) -> None:
    """The stream's head did not say that it is the last, and nobody was told anything."""
    async with streaming() as (server, client, go_on):
        await client.say(HEALTHY[:before])
        if 0 < before < len(HEALTHY):
            await until(lambda: _has_read(server, before))
        await drain(server)
        await client.say(HEALTHY[before:])
        await until(lambda: _waiting(server) == 1)
        go_on.set()
        answer = (await client.rest()).partition(b"data: [DONE]")[2]
        assert OK in answer
        assert b"\r\nconnection: close\r\n" in answer


async def test_so_is_what_is_asked_after_its_end() -> None:
    async with streaming() as (server, client, go_on):
        await drain(server)
        go_on.set()
        await client.until(b"data: [DONE]\r\n\r\n\r\n0\r\n\r\n")
        await client.say(HEALTHY)
        assert OK in await client.rest()


async def test_many_that_ask_behind_a_stream_do_not_have_its_end_reset() -> None:
    """Closing while some of what they asked is not read would throw away what is on its way."""
    async with streaming() as (server, client, go_on):
        await client.say(MANY * HEALTHY)
        await until(lambda: _waiting(server) == MANY)
        await client.say(HEALTHY)  # nothing reads that
        await drain(server)
        go_on.set()
        answer = await client.rest()
        assert b"data: [DONE]" in answer
        assert answer.count(OK) == MANY
        assert answer.count(b"\r\nconnection: close\r\n") == 1


@pytest.mark.parametrize("stops", [False, True])
async def test_what_is_sent_behind_the_last_answer_is_thrown_away(
    monkeypatch: pytest.MonkeyPatch, stops: bool
) -> None:
    """Unread, it would have the answer reset that may still be on its way."""
    monkeypatch.setattr(protocol, "LINGER", PATIENCE)
    refused = POST + b"via: %b\r\nexpect: 100-continue\r\ncontent-length: 0\r\n\r\n" % LOOP
    async with serving() as (server, url), await connect(url) as client:
        await client.say(refused + MANY * HEALTHY)  # so many that no more is read
        await client.until(b"\r\nconnection: close\r\n")
        if stops:
            await drain(server)
        async with asyncio.timeout(PATIENCE):
            await client.say(300_000 * HEALTHY)


async def test_a_stream_that_ends_before_its_request_ends_its_connection_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "BODY_SILENCE", 2 * PATIENCE)
    go_on = asyncio.Event()

    async def play(side: Side) -> None:
        await side.head()
        await side.say(STREAM_HEAD + chunk(b"begun"))
        await go_on.wait()
        await side.say(chunk(b""))
        await side.rest()

    async with (
        raw_upstream(play) as upstream,
        serving(upstream) as (server, url),
        await connect(url) as client,
    ):
        await client.say(POST + b"transfer-encoding: chunked\r\n\r\n" + chunk(b"begun"))
        await client.until(b"begun\r\n")
        await drain(server)
        go_on.set()
        assert await client.rest() == b"0\r\n\r\n"


async def test_half_a_head_behind_a_stream_is_not_waited_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "ON_ITS_WAY", 0.01)
    async with streaming() as (server, client, go_on):
        await client.say(HEALTHY[:9])
        await until(lambda: _has_read(server, 9))
        await drain(server)
        go_on.set()
        assert b"HTTP/1.1 408 " in await client.rest()


@pytest.mark.parametrize("before", [b"", HEALTHY], ids=["next", "later"])
async def test_what_is_refused_behind_a_stream_is_told_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, before: bytes
) -> None:
    """Its head is not read to its end, but that is not why."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(protocol, "ON_ITS_WAY", 0)
    async with streaming() as (server, client, go_on):
        await client.say(before + b"GET / HTTP/1.1\r\nhost : proxy\r\n\r\n")
        await until(lambda: "status=400" in caplog.text)
        await drain(server)
        go_on.set()
        assert b"HTTP/1.1 400 " in await client.rest()
    assert "status=408" not in caplog.text


async def test_a_stream_that_had_begun_ends_its_connection_if_nothing_more_is_asked() -> None:
    async with streaming() as (server, client, go_on):
        await drain(server)
        go_on.set()
        assert (await client.rest()).endswith(b"data: [DONE]\r\n\r\n\r\n0\r\n\r\n")


def _waiting(server: Server) -> int:
    """How many requests wait behind another at the server's only client."""
    return sum(c._pipeline.waiting for c in server.server_state.connections)  # type: ignore[union-attr]


def _has_read(server: Server, size: int) -> bool:
    """Whether the server has accepted its only client, and read so much of a head."""
    return [len(c._framing.head) for c in server.server_state.connections] == [size]  # type: ignore[union-attr]


def _reads_a_body(server: Server) -> bool:
    """Whether the server has read the head of its only client's request, and waits for more."""
    return [c._framing.part for c in server.server_state.connections] == ["body"]  # type: ignore[union-attr]
