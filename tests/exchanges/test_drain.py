"""The end of a drain: what was owed to a client is whole, or says that it is not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

import pytest
from starlette.types import Message

from exchanges.harness import MUCH, Exchanges, Gate, client_with, proxy_to, stuck
from proxy.exchange.extensions import CONNECTION, ClientLeft, Gone
from proxy.server import server
from proxy.server import settings as server_settings
from proxy.translation.stream import StreamTranslation
from proxy.upstream.answer import Answer, Take
from support import (
    LAST,
    PATIENCE,
    STREAM_HEAD,
    Side,
    chunk,
    completion,
    connect,
    happened,
    old_request,
)

pytestmark = pytest.mark.anyio


async def test_a_drain_lets_an_open_stream_finish_and_is_not_ready_meanwhile() -> None:
    go_on = asyncio.Event()

    async def play(side: Side) -> None:
        await side.request()
        await side.say(STREAM_HEAD + completion(" Hi"))
        await go_on.wait()
        await side.say(LAST + chunk(b""))

    async with proxy_to(play) as (app, url), await connect(url) as client:
        await client.say(old_request())
        await client.until(b"}\r\n\r\n")
        app.drain()
        async with await connect(url) as probe:
            await probe.say(b"GET /-/ready HTTP/1.1\r\nhost: proxy\r\n\r\n")
            assert (await probe.head()).startswith(b"HTTP/1.1 503 ")
            await probe.say(b"GET /-/healthy HTTP/1.1\r\nhost: proxy\r\n\r\n")
            await probe.until(b"HTTP/1.1 200 OK\r\n")
        go_on.set()
        rest = await client.until(b"data: [DONE]\r\n\r\n")
        assert b'"stop_reason":"stop_sequence"' in rest


async def test_what_begins_when_a_drain_is_over_is_not_begun(log: Exchanges) -> None:
    gate = Gate(STREAM_HEAD)
    async with proxy_to(gate.play) as (app, url), await connect(url) as client:
        app.exchanges.cut()
        await client.say(old_request())
        assert (await client.head()).startswith(b"HTTP/1.1 503 ")
        assert b"the proxy is shutting down" in await client.until(b"}}")
        assert "ended=drained" in await log.line()


async def test_a_stream_that_outlasts_the_drain_is_finished_as_failed(log: Exchanges) -> None:
    gate = Gate(STREAM_HEAD, completion(" Hi"))
    no_drain: dict[str, dict[str, object]] = {"server": {"drain": 0}}
    async with proxy_to(gate.play, no_drain) as (app, url), await connect(url) as client:
        await client.say(old_request())
        await client.until(b"}\r\n\r\n")
        app.drain()
        last = await client.until(b"data: [DONE]\r\n\r\n")
        assert b'"completion":" Hi"' in last
        assert b'"stop_reason":"max_tokens"' in last
        assert b'"exception":"overloaded_error: the proxy is shutting down"' in last
        await gate.wait_closed()
        assert "ended=drained" in await log.line()


async def test_what_a_slow_client_is_owed_at_the_end_of_a_drain_is_whole() -> None:
    async with proxy_to(Gate(MUCH).play) as (app, url), stuck(url) as client:
        app.exchanges.cut()
        rest = b""
        async with asyncio.timeout(PATIENCE):
            while not rest.endswith(b"\r\n0\r\n\r\n"):
                rest = rest[-500:] + await client.reader.read(1 << 20)
        assert b'"stop_reason":"stop_sequence"' in rest
        assert b"data: [DONE]\r\n\r\n" in rest


@pytest.mark.parametrize("amount", [1, 2, 3])
async def test_what_was_written_is_not_owed_any_more(
    monkeypatch: pytest.MonkeyPatch, amount: int
) -> None:
    """Else it would be written twice where a drain ends just behind it."""
    monkeypatch.setattr("proxy.exchange.client.BLOCK", 1)  # none are written together
    written: list[bytes] = []

    async def send(message: Message) -> None:
        written.append(message["body"])

    client = client_with(send)
    blocks = [b"1", b"2", b"3", b"4"]
    writing = client.write_all(blocks)
    assert writing is not None
    for _ in range(amount):
        writing.send(None)
    writing.close()
    assert written == blocks[:amount]
    assert [*client.unwritten] == blocks[amount:]


async def test_a_drain_may_end_just_as_the_last_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = asyncio.Event()
    feed = StreamTranslation.feed

    async def play(side: Side) -> None:
        await side.request()
        await side.say(STREAM_HEAD + completion(" Hi") + completion("x" * (7 << 20)))
        await go_on.wait()
        await side.say(LAST + chunk(b""))

    async with proxy_to(play) as (app, url), stuck(url) as client:

        def read(translation: StreamTranslation, part: bytes) -> object:
            if b"stop_sequence" in part:
                asyncio.get_running_loop().call_soon(app.exchanges.cut)
            return feed(translation, part)

        monkeypatch.setattr(StreamTranslation, "feed", read)
        go_on.set()
        rest = b""
        async with asyncio.timeout(PATIENCE):
            while not rest.endswith(b"\r\n0\r\n\r\n"):
                rest = rest[-500:] + await client.reader.read(1 << 20)
        assert b"stop_sequence" in rest
        assert b"data: [DONE]\r\n\r\n" in rest


async def test_a_client_that_takes_nothing_is_left_at_the_end_of_a_drain(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, log: Exchanges
) -> None:
    monkeypatch.setattr(server_settings, "AFTER_DRAIN", server.LAST_SECONDS)
    gate = Gate(MUCH)
    async with AsyncExitStack() as stack:
        async with proxy_to(gate.play, {"server": {"drain": 0}}) as (_, url):
            await stack.enter_async_context(stuck(url))
        assert "ended=drained" in await log.line()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(("left", "ended"), [(True, "drained"), (False, "complete")])
async def test_a_client_that_is_left_before_it_has_taken_the_end_has_no_whole_answer(
    log: Exchanges, *, left: bool, ended: str
) -> None:
    """As one of HTTP/1.0, whose body ends with its connection: that is reset, and it can tell."""
    waits = asyncio.Event()
    told: list[Callable[[Gone], None]] = []

    class Slow:
        def when_left(self, tell: Callable[[Gone], None]) -> None:
            told.append(tell)

        def write(self, parts: Sequence[bytes]) -> bool:
            return bool(parts)

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        if "body" not in message:
            return
        if not waits.is_set():
            waits.set()
            await asyncio.Event().wait()
        if left:
            told[0](ClientLeft())

    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nHi"
    async with proxy_to(Gate(answer).play) as (app, _):
        scope = {"type": "http", "method": "GET", "path": "/v1/files", "raw_path": b"/v1/files"}
        scope |= {"query_string": b"", "headers": [(b"host", b"proxy")]}
        serving = asyncio.create_task(
            app({**scope, "extensions": {CONNECTION: Slow()}}, receive, send)
        )
        await waits.wait()
        app.exchanges.cut()
        await serving
        assert f"ended={ended}" in await log.line()


async def test_what_a_part_left_to_wait_for_is_dropped_where_a_drain_cuts_in_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Though the upstream goes on for a while."""
    begun, cut, heard = asyncio.Event(), asyncio.Event(), asyncio.Event()
    hand_over = Answer._hand_over

    async def play(side: Side) -> None:
        await side.request()
        await side.say(STREAM_HEAD)
        for event in (begun, cut, asyncio.Event()):
            await side.say(completion(" Hi"))
            await event.wait()

    async with proxy_to(play) as (app, url), await connect(url) as client:

        def watched(self: Answer, take: Take) -> None:
            hand_over(self, take)
            app.exchanges.cut()
            if cut.is_set():
                heard.set()

        await client.say(old_request())
        await client.until(b"}\r\n\r\n")
        monkeypatch.setattr("proxy.exchange.client.IN_A_TURN", 1)
        monkeypatch.setattr(Answer, "_hand_over", watched)
        begun.set()
        await client.until(b"\r\n0\r\n\r\n")
        cut.set()
        await happened(heard)
