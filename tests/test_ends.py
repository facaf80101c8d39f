"""How exchanges end, over real sockets: what the client, the upstream and the log see of it."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import re
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import AsyncMock

import pytest
from starlette.types import Message, Send

from proxy.app import App
from proxy.exchange import keepalive
from proxy.exchange.client import Client
from proxy.exchange.exchange import OFFLOAD_FROM, RESENDABLE, Exchange
from proxy.exchange.extensions import CONNECTION, ClientLeft, Gone
from proxy.exchange.keepalive import Keepalive
from proxy.observe.record import Record
from proxy.runtime import sockets
from proxy.server import server
from proxy.server.server import running
from proxy.translation.stream import StreamTranslation
from proxy.translation.translation import Translation
from proxy.upstream.answer import Answer, Take
from support import (
    LAST,
    PATIENCE,
    STREAM_HEAD,
    Play,
    Side,
    chunk,
    completion,
    connect,
    old_request,
    raw_upstream,
    settings,
    until,
)
from support.processes import served, write_config

pytestmark = pytest.mark.anyio


class Exchanges(logging.Handler):
    """The lines that the proxy logs of its exchanges, to be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: asyncio.Queue[str] = asyncio.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.put_nowait(record.getMessage())

    async def line(self) -> str:
        """The next line."""
        async with asyncio.timeout(PATIENCE):
            return await self._lines.get()


@pytest.fixture
async def log(caplog: pytest.LogCaptureFixture) -> AsyncIterator[Exchanges]:
    """The proxy's log of exchanges."""
    caplog.set_level(logging.INFO)
    handler = Exchanges()
    logger = logging.getLogger("proxy.exchanges")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@asynccontextmanager
async def proxy_to(
    play: Play, more: dict[str, dict[str, object]] | None = None
) -> AsyncIterator[tuple[App, str]]:
    """The proxy in front of an upstream that is played by ``play``."""
    async with raw_upstream(play) as upstream:
        app = App(settings(upstream, more=more))
        async with running(app) as url:
            yield app, url


async def answer_all(side: Side) -> None:
    """Answer every request with a short stream."""
    while True:
        await side.request()
        await side.say(STREAM_HEAD + completion(" Hi") + LAST + chunk(b""))


class Gate:
    """An upstream whose connections wait to be let on, and say when they were closed."""

    def __init__(self, *before: bytes) -> None:
        self.asked = asyncio.Event()
        self.closed = asyncio.Event()
        self._before = before

    async def play(self, side: Side) -> None:
        await side.request()
        for part in self._before:
            await side.say(part)
        self.asked.set()
        assert await side.rest() == b""
        self.closed.set()

    async def wait_closed(self) -> None:
        async with asyncio.timeout(PATIENCE):
            await self.closed.wait()


@pytest.mark.parametrize(
    ("said", "seen", "ended"),
    [
        ([], b"", 'ended="client left before the first byte"'),
        ([STREAM_HEAD], b"", 'ended="client left before the first byte"'),
        ([STREAM_HEAD, completion(" Hi")], b"}\r\n\r\n", 'ended="client left mid-stream"'),
    ],
    ids=["before the head", "before the first event", "mid-stream"],
)
async def test_a_client_that_leaves_ends_the_upstream_call_at_once(
    log: Exchanges, said: list[bytes], seen: bytes, ended: str
) -> None:
    gate = Gate(*said)
    async with proxy_to(gate.play) as (_, url):
        async with await connect(url) as client:
            await client.say(old_request())
            await gate.asked.wait()
            if seen:
                await client.until(seen)
        await gate.wait_closed()
        assert ended in await log.line()


async def test_an_observer_that_fails_leaves_no_call_open() -> None:
    gate = Gate(STREAM_HEAD, completion(" Hi"))

    def fail(_: Record) -> None:
        raise ValueError

    async with proxy_to(gate.play) as (app, url):
        app.observers.insert(0, fail)
        async with await connect(url) as client:
            await client.say(old_request())
            await client.until(b"}\r\n\r\n")
        await gate.wait_closed()


async def test_a_client_that_leaves_a_call_without_stream_ends_it_too(log: Exchanges) -> None:
    gate = Gate()
    async with proxy_to(gate.play) as (_, url):
        async with await connect(url) as client:
            await client.say(old_request(stream=False))
            await gate.asked.wait()
        await gate.wait_closed()
        assert 'ended="client left before the first byte"' in await log.line()


async def test_a_client_of_an_unknown_version_that_leaves_has_left_and_no_more(
    log: Exchanges,
) -> None:
    gate = Gate()
    async with proxy_to(gate.play) as (_, url):
        async with await connect(url) as client:
            await client.say(
                b"GET /v1/models HTTP/1.1\r\nhost: x\r\nanthropic-version: 2999-01-01\r\n\r\n"
            )
            await gate.asked.wait()
        await gate.wait_closed()
        assert 'ended="client left before the first byte"' in await log.line()


async def test_a_client_that_leaves_right_after_the_stop_has_had_everything(log: Exchanges) -> None:
    gate = Gate(STREAM_HEAD, completion(" Hi"), LAST)
    async with proxy_to(gate.play) as (_, url):
        async with await connect(url) as client:
            await client.say(old_request())
            await client.until(b'"stop_reason":"stop_sequence"')
        await gate.wait_closed()
        line = await log.line()
        assert "ended=complete" in line or 'ended="client left after the stop"' in line


async def test_the_first_snapshot_arrives_before_the_upstream_says_more() -> None:
    gate = Gate(STREAM_HEAD, completion(" Hi"))
    async with proxy_to(gate.play) as (_, url), await connect(url) as client:
        await client.say(old_request())
        head = await client.head()
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"transfer-encoding: chunked\r\n" in head
        assert b'data: {"completion":" Hi","stop":null' in await client.until(b"}\r\n\r\n")


async def test_a_burst_of_cancelled_calls_leaves_the_pool_healthy(log: Exchanges) -> None:
    open_connections = 0
    asked = asyncio.Semaphore(0)
    closed = asyncio.Semaphore(0)

    async def play(side: Side) -> None:
        nonlocal open_connections
        open_connections += 1
        try:
            await side.request()
            asked.release()
            await side.rest()
        finally:
            open_connections -= 1
            closed.release()

    burst = 150
    async with proxy_to(play) as (_, url):
        clients = [await connect(url) for _ in range(burst)]
        for client in clients:
            await client.say(old_request())
        async with asyncio.timeout(PATIENCE):
            for _ in range(burst):
                await asked.acquire()
        assert open_connections == burst
        for client in clients:
            client.writer.close()
        async with asyncio.timeout(PATIENCE):
            for _ in range(burst):
                await closed.acquire()
        assert open_connections == 0
        lines = [await log.line() for _ in range(burst)]
        assert all("client left before the first byte" in line for line in lines)


async def test_cancelled_before_they_connect_calls_leave_the_pool_healthy(log: Exchanges) -> None:
    async with proxy_to(answer_all) as (_, url):
        for _ in range(200):
            client = await connect(url)
            client.writer.write(old_request())
            client.writer.close()
        for _ in range(200):
            await log.line()
        async with await connect(url) as client:
            await client.say(old_request())
            assert (await client.until(b"data: [DONE]\r\n\r\n")).count(b"data: {") == 2


async def test_an_upstream_connection_serves_one_exchange_after_the_other() -> None:
    connections = 0

    async def play(side: Side) -> None:
        nonlocal connections
        connections += 1
        await answer_all(side)

    async with proxy_to(play) as (_, url), await connect(url) as client:
        for _ in range(2):
            await client.say(old_request())
            await client.until(b"data: [DONE]\r\n\r\n\r\n0\r\n\r\n")
    assert connections == 1


async def test_others_are_served_while_a_large_request_is_translated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A megabyte of short turns takes half a second."""
    others_were_served = threading.Event()
    translate = Translation.request

    def patient(self: Translation, endpoint: str, body: bytes) -> tuple[str, bytes]:
        assert others_were_served.wait(PATIENCE / 4)
        return translate(self, endpoint, body)

    monkeypatch.setattr(Translation, "request", patient)
    head, _, body = old_request().partition(b"\r\n\r\n")
    body += b" " * OFFLOAD_FROM
    head = re.sub(rb"content-length: \d+", b"content-length: %d" % len(body), head)
    async with proxy_to(answer_all) as (_, url), await connect(url) as large:
        await large.say(head + b"\r\n\r\n" + body)
        async with await connect(url) as other:
            for path in (b"metrics", b"ready"):
                await other.say(b"GET /-/%b HTTP/1.1\r\nhost: proxy\r\n\r\n" % path)
                await other.until(b"HTTP/1.1 200 OK\r\n")
        others_were_served.set()
        assert b'"completion":" Hi"' in await large.until(b"}\r\n\r\n")


async def test_what_waits_to_be_translated_is_let_go_of_when_its_client_leaves(
    log: Exchanges, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing counts it any more, so that any number of large bodies could wait."""
    begun, go_on = threading.Event(), threading.Event()
    translate = Translation.request

    def patient(self: Translation, endpoint: str, body: bytes) -> tuple[str, bytes]:
        begun.set()
        assert go_on.wait(PATIENCE)
        return translate(self, endpoint, body)

    monkeypatch.setattr(Translation, "request", patient)
    head, _, body = old_request().partition(b"\r\n\r\n")
    body += b" " * OFFLOAD_FROM
    head = re.sub(rb"content-length: \d+", b"content-length: %d" % len(body), head)
    async with proxy_to(answer_all) as (app, url), await connect(url) as first:
        await first.say(head + b"\r\n\r\n" + body)
        assert await asyncio.to_thread(begun.wait, PATIENCE)
        for _ in range(3):
            async with await connect(url) as leaving:
                await leaving.say(head + b"\r\n\r\n" + body)
            assert "client left before the first byte" in await log.line()
        held = [each for each in gc.get_objects() if isinstance(each, Translation)]
        go_on.set()
        assert len(held) == len(app.exchanges) == 1
        del held
        assert b'"completion":" Hi"' in await first.until(b"}\r\n\r\n")


async def test_at_the_limit_a_request_is_told_to_come_back_and_the_proxy_stays_ready() -> None:
    gate = Gate(STREAM_HEAD, completion(" Hi"))
    limits: dict[str, dict[str, object]] = {"limits": {"concurrent_exchanges": 1}}
    async with proxy_to(gate.play, limits) as (_, url), await connect(url) as first:
        await first.say(old_request())
        await first.until(b"}\r\n\r\n")
        async with await connect(url) as second:
            await second.say(old_request())
            head = await second.head()
            assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
            assert b"retry-after: 1\r\n" in head
            assert b'"type":"overloaded_error"' in await second.until(b"}}")
            await second.say(b"GET /-/ready HTTP/1.1\r\nhost: proxy\r\n\r\n")
            assert (await second.head()).startswith(b"HTTP/1.1 200 OK\r\n")


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


MUCH = STREAM_HEAD + completion(" Hi") + completion("x" * (7 << 20)) + LAST + chunk(b"")
"""More than a client has room for that does not read, whole in one piece but for its beginning."""


@asynccontextmanager
async def stuck(url: str) -> AsyncIterator[Side]:
    """A client that has taken but the beginning of MUCH."""
    host, _, port = url.removeprefix("http://").partition(":")
    async with Side(*await asyncio.open_connection(host, int(port), limit=1 << 10)) as client:
        await client.say(old_request())
        await client.until(b'"completion":" Hi"')
        await client.until(b'"completion":" Hix')
        yield client


async def test_what_a_slow_client_is_owed_at_the_end_of_a_drain_is_whole() -> None:
    async with proxy_to(Gate(MUCH).play) as (app, url), stuck(url) as client:
        app.exchanges.cut()
        rest = b""
        async with asyncio.timeout(PATIENCE):
            while not rest.endswith(b"\r\n0\r\n\r\n"):
                rest = rest[-500:] + await client.reader.read(1 << 20)
        assert b'"stop_reason":"stop_sequence"' in rest
        assert b"data: [DONE]\r\n\r\n" in rest


def client_with(send: Send) -> Client:
    """A client whose head was sent, and to whom all the rest goes through ``send``."""
    scope = {"method": "POST", "raw_path": b"/", "query_string": b"", "headers": []}
    client = Client(scope, AsyncMock(), send)
    client.started = True
    return client


@pytest.mark.parametrize("amount", [1, 2, 3])
async def test_what_was_written_is_not_owed_any_more(amount: int) -> None:
    """Else it would be written twice where a drain ends just behind it."""
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


async def test_no_ping_overtakes_the_end_that_waits_for_a_slow_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    silences = asyncio.Semaphore(0)
    look = Keepalive._on_timer

    def looked(pinger: Keepalive) -> None:
        look(pinger)
        silences.release()

    monkeypatch.setattr(Keepalive, "_on_timer", looked)
    monkeypatch.setattr(keepalive, "SILENCE", 0.15)

    async def play(side: Side) -> None:
        await side.request()
        await side.say(MUCH)

    async with raw_upstream(play) as upstream:
        configured = settings(upstream)
        routes = tuple(replace(route, keepalive="timestamp") for route in configured.routes)
        async with running(App(replace(configured, routes=routes))) as url, stuck(url) as client:
            async with asyncio.timeout(PATIENCE):
                for _ in range(2):
                    await silences.acquire()
            rest = b""
            async with asyncio.timeout(PATIENCE):
                while not rest.endswith(b"\r\n0\r\n\r\n"):
                    rest = rest[-500:] + await client.reader.read(1 << 20)
    last, done = rest.index(b'"stop_reason":"stop_sequence"'), rest.index(b"data: [DONE]\r\n\r\n")
    assert b"event: ping" not in rest[last:done]


@pytest.mark.parametrize("begun", [True, False], ids=["begun", "not begun"])
async def test_a_ping_that_waits_does_not_come_after_the_end(*, begun: bool) -> None:
    """Where the client reads on just as the end arrives, either could be the first to go on."""
    reads_on = asyncio.Event()
    written: list[bytes] = []

    async def send(message: Message) -> None:
        if message["body"] == b"ping":
            await reads_on.wait()
        written.append(message["body"])

    client = client_with(send)
    client.ping(b"ping")
    if begun:
        await asyncio.sleep(0)
    assert client.behind
    reads_on.set()
    ending = client.write_all([b"end"])
    assert ending is not None
    await ending
    assert not client.behind
    assert written == [b"end"]


async def test_a_ping_may_be_given_up_before_it_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keepalive, "SILENCE", 0)

    async def send(_: Message) -> None:
        await asyncio.Event().wait()

    def ping() -> bytes:
        exchange.cancel()
        return b""

    async def silence() -> None:
        with Keepalive(client_with(send), ping):
            await asyncio.Event().wait()

    exchange = asyncio.create_task(silence())
    async with asyncio.timeout(PATIENCE):
        await asyncio.wait([exchange])
    assert exchange.cancelled()
    gc.collect()  # which would tell of a wait that nobody began


@pytest.mark.parametrize("taken", [True, False], ids=["taken", "never taken"])
async def test_a_ping_that_had_to_wait_is_neither_the_last_nor_left_behind(
    monkeypatch: pytest.MonkeyPatch, *, taken: bool
) -> None:
    monkeypatch.setattr(keepalive, "SILENCE", 0)
    before = asyncio.all_tasks()
    looks = asyncio.Semaphore(0)
    look = Keepalive._on_timer
    pings = 0

    def looked(pinger: Keepalive) -> None:
        look(pinger)
        looks.release()

    async def send(_: Message) -> None:
        if not taken:
            await asyncio.Event().wait()

    def ping() -> bytes:
        nonlocal pings
        pings += 1
        return b""

    monkeypatch.setattr(Keepalive, "_on_timer", looked)
    with Keepalive(client_with(send), ping):
        async with asyncio.timeout(PATIENCE):
            for _ in range(9):
                await looks.acquire()
    assert pings > 1 if taken else pings == 1
    await until(lambda: asyncio.all_tasks() == before)


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
    monkeypatch.setattr(server, "AFTER_DRAIN", server.LAST_SECONDS)
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

        def write(self, data: bytes) -> bool:
            return bool(data)

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


@pytest.mark.parametrize("ended_by", ["the client", "the upstream", "a drain"])
async def test_an_exchange_that_ends_early_waits_for_no_garbage_collector(ended_by: str) -> None:
    """It seldom comes, and until then a body or a text of many MB would be kept."""
    cut, freed = asyncio.Event(), asyncio.Event()

    async def play(side: Side) -> None:
        await side.request()
        await side.say(STREAM_HEAD + completion(" Hi"))
        await cut.wait()

    gc.disable()
    try:
        async with proxy_to(play) as (app, url), await connect(url) as client:
            await client.say(old_request())
            await client.until(b"}\r\n\r\n")
            for exchange in gc.get_objects():
                if isinstance(exchange, Exchange):
                    weakref.finalize(exchange, freed.set)
            del exchange
            match ended_by:
                case "the client":
                    client.writer.close()
                case "the upstream":
                    cut.set()
                case _:
                    app.exchanges.cut()
            async with asyncio.timeout(PATIENCE / 4):
                await freed.wait()
            cut.set()
    finally:
        gc.enable()


async def test_an_upload_that_its_upstream_cuts_waits_for_no_garbage_collector_either() -> None:
    reached, cut, freed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def play(side: Side) -> None:
        await side.head()
        reached.set()
        await cut.wait()

    gc.disable()
    try:
        async with proxy_to(play) as (_, url), await connect(url) as client:
            await client.say(
                b"POST /v1/files HTTP/1.1\r\nhost: proxy\r\nanthropic-version: 2023-06-01\r\n"
                b"transfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n"
            )
            await reached.wait()
            for one in gc.get_objects():
                if isinstance(one, Client):
                    weakref.finalize(one, freed.set)
            del one
            cut.set()
            await client.head()
            client.writer.close()
            async with asyncio.timeout(PATIENCE / 4):
                await freed.wait()
    finally:
        gc.enable()


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
        async with asyncio.timeout(PATIENCE):
            await heard.wait()


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
        async with asyncio.timeout(PATIENCE):
            await up.wait()
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


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 600 Odd\r\ncontent-length: 0\r\n\r\n", b"502"),
        (b"HTTP/1.1 101 Switching\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n", b"502"),
        (b"HTTP/1.1 200 OK\r\nx-a: a\x01b\r\ncontent-length: 0\r\n\r\n", b"502"),
        (b'HTTP/1.1 304 Not Modified\r\netag: "1"\r\ncontent-length: 77\r\n\r\n', b"304"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"204"),
    ],
)
async def test_odd_heads_do_not_break_an_exchange(
    log: Exchanges, answer: bytes, status: bytes
) -> None:
    async def play(side: Side) -> None:
        await side.head()
        await side.say(answer)
        await side.rest()

    async with proxy_to(play) as (_, url), await connect(url) as client:
        await client.say(
            b"GET /v1/models HTTP/1.1\r\nhost: proxy\r\nanthropic-version: 2023-06-01\r\n\r\n"
        )
        assert (await client.head()).startswith(b"HTTP/1.1 %b " % status)
        assert "crashed" not in await log.line()


async def test_a_refusal_whose_body_is_cut_keeps_its_status() -> None:
    async def play(side: Side) -> None:
        await side.request()
        await side.say(b"HTTP/1.1 429 Too Many\r\nretry-after: 7\r\ncontent-length: 99\r\n\r\n{")

    async with proxy_to(play) as (_, url), await connect(url) as client:
        await client.say(old_request())
        head = await client.head()
        assert head.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
        assert b"retry-after: 7\r\n" in head


def threads(process: int) -> set[str]:
    """The threads of a process, by their numbers."""
    return {thread.name for thread in Path(f"/proc/{process}/task").iterdir()}


async def test_no_request_needs_a_thread_that_was_not_there_from_the_start(tmp_path: Path) -> None:
    """Where none is left, the first look-up of a name would end the process."""
    file = tmp_path / "proxy.yaml"
    async with raw_upstream(answer_all) as url:
        write_config(file, url.replace("127.0.0.1", "localhost"))
        async with served("serve", "--config", str(file)) as proxy:
            before = threads(proxy.process.pid)
            async with await connect(proxy.url) as client:
                await client.say(old_request(prompt="x" * OFFLOAD_FROM))
                await client.until(b"data: [DONE]\r\n\r\n")
            async with asyncio.timeout(PATIENCE):
                while threads(proxy.process.pid) != before:  # noqa: ASYNC110  (nobody tells of it)
                    await asyncio.sleep(0)  # that of the look-up is about to end


TCP = Path("/proc/net/tcp")

OPEN, KEEPALIVE = "01", "02"
"""As Linux tells the state of a connection, and its timer."""


def timers(*, here: int, there: int) -> list[tuple[str, float]]:
    """What the connections from ``here`` and those to ``there`` wait for, and for what seconds."""
    found = []
    for _, local, remote, state, _, timer, *_ in map(str.split, TCP.read_text().splitlines()):
        if state == OPEN and (local.endswith(f":{here:04X}") or remote.endswith(f":{there:04X}")):
            kind, ticks = timer.split(":")
            found.append((kind, int(ticks, 16) / 100))
    return found


@pytest.mark.skipif(not TCP.exists(), reason="only Linux tells of its timers")
async def test_whoever_is_silent_is_asked_whether_it_is_there() -> None:
    """And what stands between, such as NAT, is reminded of the connection."""
    gate = Gate()
    async with (
        raw_upstream(gate.play) as upstream,
        running(App(settings(upstream))) as url,
        await connect(url) as client,
    ):
        await client.say(old_request())
        async with asyncio.timeout(PATIENCE):
            await gate.asked.wait()
        ours, theirs = (int(base.rpartition(":")[2]) for base in (url, upstream))
        waiting: list[tuple[str, float]] = []

        def only_that() -> bool:
            """Whether nothing else is waited for, such as that the last bytes are acknowledged."""
            waiting[:] = timers(here=ours, there=theirs)
            return [kind for kind, _ in waiting] == [KEEPALIVE, KEEPALIVE]

        await until(only_that)
        assert max(left for _, left in waiting) <= sockets.INTERVAL


async def test_a_finished_exchange_makes_room_at_once() -> None:
    async def play(side: Side) -> None:
        while True:
            await side.request()
            await side.say(STREAM_HEAD + completion(" Hi") + LAST)

    limits: dict[str, dict[str, object]] = {"limits": {"concurrent_exchanges": 1}}
    async with proxy_to(play, limits) as (_, url):
        for _ in range(2):
            async with await connect(url) as client:
                await client.say(old_request())
                await client.until(b"data: [DONE]\r\n\r\n\r\n0\r\n\r\n")


SECRET = "sk-ant-canary"  # noqa: S105


@pytest.mark.parametrize(
    "answer",
    [
        STREAM_HEAD
        + completion(" Hi")
        + chunk(
            b'event: error\ndata: {"error":{"type":"api_error","message":"%b"}}\n\n'
            % SECRET.encode()
        )
        + chunk(b""),
        STREAM_HEAD + completion(" Hi") + chunk(b""),
        (
            b"HTTP/1.1 401 No\r\ncontent-length: 69\r\n\r\n"
            b'{"error":{"type":"authentication_error","message":"bad sk-ant-canary"}}'
        ),
    ],
    ids=["error event", "no end", "status"],
)
async def test_the_log_tells_a_failure_without_the_upstreams_words(
    log: Exchanges, answer: bytes
) -> None:
    async def play(side: Side) -> None:
        await side.request()
        await side.say(answer)

    async with proxy_to(play) as (_, url), await connect(url) as client:
        await client.say(old_request())
        line = await log.line()
        assert 'ended="upstream ' in line
        assert "error=" in line
        assert SECRET not in line


async def test_what_is_not_ours_under_the_admin_prefix_goes_nowhere() -> None:
    gate = Gate()
    async with proxy_to(gate.play) as (_, url):
        for target in (b"GET /-/healthy/", b"GET /-/ledger/", b"POST /-/healthy", b"GET /-/x"):
            async with await connect(url) as client:
                await client.say(
                    b"%b HTTP/1.1\r\nhost: proxy\r\ncontent-length: 0\r\n\r\n" % target
                )
                assert (await client.head()).startswith(b"HTTP/1.1 404 Not Found\r\n")
        assert not gate.asked.is_set()
