"""How large a head and a body may be, and what becomes of a body that is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest
from starlette.types import Receive, Scope, Send

from door.harness import (
    CHUNKED,
    COMPLETE,
    GET,
    OK,
    POST,
    More,
    Upstream,
    answer,
    door,
    envelope,
    message,
    serving,
    shorten,
    stay,
    trickle,
)
from proxy.app import App
from proxy.connection import terms
from proxy.server import settings as server_settings
from proxy.server.server import running
from support import Side, chunk, connect, raw_upstream, settings

pytestmark = pytest.mark.anyio


async def test_a_head_of_too_many_fields_is_refused_before_its_end() -> None:
    """They take twenty times their length in memory, for as long as a head may take."""
    async with door(Upstream()) as client:
        await client.say(GET + b"x: a\r\n" * terms.FIELDS)
        assert (await client.head()).startswith(b"HTTP/1.1 431 ")


async def test_a_head_that_never_ends_is_refused_before_it_fills_the_memory() -> None:
    upstream = Upstream()
    async with door(upstream) as client:
        await client.say(GET + b"x-a: ")
        refused = await trickle(client, b"x" * (16 << 10))
        assert str(64 << 10) in message(refused, 431)
    assert not upstream.asked


@pytest.mark.parametrize("behind", [b"\r\n\r\n", b""], ids=["whole", "unfinished"])
async def test_a_head_that_is_too_large_at_once_is_refused(behind: bytes) -> None:
    async with door(Upstream()) as client:
        await client.say(GET + b"x-a: " + b"x" * (200 << 10) + behind)
        message(await client.rest(), 431)


async def test_the_target_is_part_of_the_head() -> None:
    limits: More = {"limits": {"header_bytes": 300}}
    async with door(Upstream(), limits) as client:
        await client.say(b"GET /?%b HTTP/1.1\r\nhost: proxy\r\n\r\n" % (b"x" * 300))
        assert "300" in message(await client.rest(), 431)


@pytest.mark.parametrize(
    "before",
    [POST + b"content-length: 900\r\n\r\n" + b"x" * 900, GET + b"x-a: " + b"x" * 180 + b"\r\n\r\n"],
    ids=["body", "head"],
)
async def test_what_came_before_a_head_does_not_count_for_it(before: bytes) -> None:
    upstream = Upstream()
    async with door(upstream, {"limits": {"header_bytes": 300}}) as client:
        await client.say(before + GET)
        assert (await answer(client))[1] == b"ok"
        await client.say(b"\r\n")
        assert (await answer(client))[1] == b"ok"


def in_parts(size: int) -> Callable[[bytes], list[bytes]]:
    """Cuts into parts of a ``size``."""
    return lambda data: [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize(("more", "status"), [(0, b"200"), (1, b"431")], ids=["at", "beyond"])
@pytest.mark.parametrize(
    "cut", [in_parts(9999), in_parts(300), in_parts(7)], ids=["whole", "halves", "crumbs"]
)
async def test_a_head_is_measured_alike_however_it_is_cut(
    cut: Callable[[bytes], list[bytes]], more: int, status: bytes
) -> None:
    taken = len(b"/v1/models?a=bhostproxyx-a") + 2 * len(b": \r\n")
    value = b"x" * (400 - taken + more)
    sent = b"GET /v1/models?a=b HTTP/1.1\r\nhost: proxy\r\nx-a: %b\r\n\r\n" % value
    async with door(Upstream(), {"limits": {"header_bytes": 400}}) as client:
        for part in cut(sent):
            await client.say(part)
            await asyncio.sleep(0)
        assert (await client.head()).startswith(b"HTTP/1.1 %b " % status)


async def test_a_connection_that_stays_goes_by_the_configuration_in_force() -> None:
    large = GET + b"x-a: %b\r\n\r\n" % (b"x" * 400)
    upstream = Upstream()
    async with raw_upstream(upstream.play) as base:
        app = App(settings(base))
        async with running(app) as url, await connect(url) as client:
            await client.say(large)
            assert (await answer(client))[1] == b"ok"
            await app.reload(settings(base, more={"limits": {"header_bytes": 300}}))
            await client.say(large)
            assert "300" in message(await client.rest(), 431)
    assert len(upstream.asked) == 1


@pytest.mark.parametrize(("count", "status"), [(200, b"200"), (201, b"431")])
async def test_fields_are_counted(count: int, status: bytes) -> None:
    async with door(Upstream()) as client:
        await client.say(GET + b"a:\r\n" * (count - 2) + b"\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 %b " % status)


@pytest.mark.parametrize("endless", [b"3;", b"0\r\nx-a: "], ids=["extension", "trailer"])
async def test_framing_without_a_body_is_bounded(endless: bytes) -> None:
    upstream = Upstream()
    async with door(upstream) as client:
        await client.say(COMPLETE + CHUNKED + endless)
        message(await trickle(client, b"x" * (16 << 10)), 431)
    assert not upstream.asked


async def test_applications_without_a_limit_of_their_own_have_one() -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        raise NotImplementedError

    async with serving(application) as client:
        await client.say(GET + b"x-a: " + b"x" * (200 << 10))
        assert str(terms.HEAD_SIZE) in message(await client.rest(), 431)


@pytest.mark.parametrize(
    "sent",
    [b"content-length: 51\r\n\r\n", CHUNKED + chunk(b"x" * 51), CHUNKED + chunk(b"x" * 26) * 2],
    ids=["announced", "chunk", "chunks"],
)
async def test_a_body_is_counted_while_it_arrives(sent: bytes) -> None:
    upstream = Upstream()
    async with door(upstream, {"limits": {"request_body": 50}}) as client:
        await client.say(COMPLETE + sent)
        head, body = await answer(client)
        assert head.startswith(b"HTTP/1.1 413 ")
        assert "50" in envelope(body, "request_too_large")
    assert not upstream.asked


async def test_a_body_that_comes_after_its_refusal_is_let_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_settings, "KEEP_ALIVE", 0.05)
    upstream = Upstream()
    async with door(upstream, {"limits": {"request_body": 50}}) as client:
        await client.say(COMPLETE + b"content-length: 51\r\n\r\n")
        assert (await answer(client))[0].startswith(b"HTTP/1.1 413 ")
        await client.say(b"x" * 51 + GET + b"\r\n")
        assert (await answer(client))[1] == b"ok"
        await client.say(COMPLETE + b"content-length: 51\r\n\r\n")
        await answer(client)
        await client.say(b"x" * 51)
        assert await client.rest() == b""
    assert len(upstream.asked) == 1


@pytest.mark.parametrize("last", [b"connection: close", b"expect: 100-continue"])
async def test_the_last_answer_is_heard_though_its_request_is_still_on_its_way(last: bytes) -> None:
    upstream = Upstream()
    body = b"x" * (1 << 20)
    async with door(upstream, {"limits": {"request_body": 50}}) as client:
        await client.say(COMPLETE + last + b"\r\ncontent-length: %d\r\n\r\n" % len(body))
        assert (await client.head()).startswith(b"HTTP/1.1 413 ")
        await client.say(body + GET + b"\r\n")
        assert "50" in envelope(await client.rest(), "request_too_large")
    assert not upstream.asked


async def test_a_stop_resets_nobody_who_has_an_answer_and_still_sends_its_request() -> None:
    async def play(side: Side) -> None:
        await side.head()
        await side.say(OK)
        await side.rest()

    async with raw_upstream(play) as base, AsyncExitStack() as server_:
        url = await server_.enter_async_context(running(App(settings(base))))
        async with await connect(url) as client:
            await client.say(POST + b"content-length: 1000000\r\n\r\n")
            assert (await answer(client))[1] == b"ok"
            stopping = asyncio.create_task(server_.aclose())
            assert await client.rest() == b""
            for _ in range(5):  # upon a reset the second write fails, and the third says so
                await client.say(b"x")
                await asyncio.sleep(0)
        await stopping


async def test_a_body_that_nobody_asked_for_does_not_become_the_next_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shorten(monkeypatch, "LINGER")
    upstream = Upstream()
    async with door(upstream, {"limits": {"request_body": 50}}) as client:
        await client.say(COMPLETE + b"expect: 100-continue\r\ncontent-length: 51\r\n\r\n")
        refused = await client.rest()
        assert refused.startswith(b"HTTP/1.1 413 ")
        assert b"\r\nconnection: close\r\n" in refused
        await client.say(b"x" * 51 + GET + b"\r\n")
        await stay(client)
    assert not upstream.asked
