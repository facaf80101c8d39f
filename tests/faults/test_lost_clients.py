"""Clients that leave, stall, or are sent away: their calls of the upstream end with them."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack

import pytest

from faults.answers import check_cut, check_finished, check_good, check_refused, endings, parsed
from faults.kinds import (
    AFTER_THE_HEAD,
    BYTES,
    END,
    EXCHANGES,
    JSON_HEAD,
    NATIVE,
    STREAMS,
    UP_TO_BEGUN,
    UPLOAD,
    WHOLE,
    Exchange,
    Moment,
    events,
)
from faults.proxies import Proxy, new_proxy, paused
from faults.scripts import LONG, SOON, scripted
from support import PATIENCE, STREAM_HEAD, Play, Side, chunk, completion, happened, until

pytestmark = pytest.mark.anyio


def left(exchange: Exchange, moment: Moment) -> str:
    if exchange.streams and moment is Moment.ALL_BUT_THE_END:
        return "ended=complete"
    seen = exchange.seen(moment) is not None
    return f'ended="client left {"mid-stream" if seen else "before the first byte"}"'


@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: exchange.name)
@pytest.mark.parametrize("moment", [Moment.ASKED, *AFTER_THE_HEAD], ids=lambda at: at.name)
async def test_a_client_that_leaves_takes_its_call_along(
    proxy: Proxy, log: pytest.LogCaptureFixture, exchange: Exchange, moment: Moment
) -> None:
    there, closed = asyncio.Event(), asyncio.Event()
    there.set()
    at = asyncio.Event()

    async def rests(side: Side) -> None:
        at.set()
        assert await side.rest() == b""
        closed.set()

    proxy.upstream.good = exchange.good
    async with proxy.nothing_left():
        proxy.upstream.scripts.append(scripted(exchange, moment, there, rests))
        async with await proxy.client(exchange.request) as client:
            if known := exchange.seen(moment):
                await client.until(known)
            await happened(at)
        await happened(closed)
        check_good(exchange, await proxy.ask(exchange.request))
    assert endings(log) == [left(exchange, moment), "ended=complete"]


async def test_a_client_that_leaves_its_upload_takes_its_call_along(
    proxy: Proxy, log: pytest.LogCaptureFixture
) -> None:
    at, closed = asyncio.Event(), asyncio.Event()

    async def play(side: Side) -> None:
        await side.head()
        at.set()
        await side.rest()
        closed.set()

    proxy.upstream.good = BYTES.good
    async with proxy.nothing_left():
        proxy.upstream.scripts.append(play)
        async with await proxy.client(UPLOAD):
            await at.wait()
        await happened(closed)
        check_good(BYTES, await proxy.ask(BYTES.request))
    assert endings(log) == ['ended="client left before the first byte"', "ended=complete"]


DELTA = {
    "type": "content_block_delta",
    "index": 0,
    "delta": {"type": "text_delta", "text": " and so on"},
}
AND_SO_ON = {
    "native": completion(" and so on") * 99,
    "bridged": events(DELTA) * 99,
    "bytes": chunk(LONG),
}


def endless(exchange: Exchange) -> Play:
    async def play(side: Side) -> None:
        await side.request()
        await side.say(b"".join(exchange.parts[:2]))
        part = AND_SO_ON[exchange.name]
        while not side.writer.is_closing():
            await side.say(part)

    return play


@pytest.mark.parametrize("exchange", [*STREAMS, BYTES], ids=lambda exchange: exchange.name)
async def test_a_client_that_takes_nothing_makes_the_upstream_wait_and_is_left(
    log: pytest.LogCaptureFixture, exchange: Exchange, anyio_backend: object
) -> None:
    del anyio_backend
    async with new_proxy(idle=10 * SOON) as proxy, proxy.nothing_left():
        proxy.upstream.scripts.append(endless(exchange))
        async with await proxy.client(exchange.request):
            await until(lambda: paused(proxy))
            await until(lambda: not len(proxy.app.exchanges))
    assert endings(log) == ['ended="client stalled"']


@pytest.mark.parametrize(
    ("how", "ended"),
    [
        ("stalls", 'ended="client stalled"'),
        ("leaves", 'ended="client left mid-stream"'),
        ("is cut by a stop", "ended=drained"),
    ],
)
async def test_a_whole_answer_that_its_client_did_not_take_is_not_told_to_be_complete(
    log: pytest.LogCaptureFixture, how: str, ended: str, anyio_backend: object
) -> None:
    del anyio_backend
    long = b'{"completion":"%b","stop_reason":"max_tokens"}' % (b"x" * (12 << 20))

    async def play(side: Side) -> None:
        await side.request()
        await side.say(JSON_HEAD + chunk(long) + END)

    async with new_proxy(**({"idle": 10 * SOON} if how == "stalls" else {})) as proxy:
        proxy.upstream.scripts.append(play)
        async with proxy.nothing_left(), await proxy.client(WHOLE.request) as client:
            await client.until(b"xxx")
            if how == "is cut by a stop":
                proxy.app.exchanges.cut()
            if how != "stalls":
                client.writer.transport.abort()
            await until(lambda: not len(proxy.app.exchanges))
    assert endings(log)[0].startswith(ended)


async def test_a_slow_client_gets_all_of_a_stream_and_its_end(
    proxy: Proxy, log: pytest.LogCaptureFixture
) -> None:
    count = 4000

    async def play(side: Side) -> None:
        await side.request()
        await side.say(STREAM_HEAD + completion(" Hi") * count + NATIVE.parts[2] + END)
        await side.rest()

    async with proxy.nothing_left():
        proxy.upstream.scripts.append(play)
        async with await proxy.client(NATIVE.request) as client:
            await until(lambda: paused(proxy))
            answer = parsed(await client.rest())
    assert answer.whole
    *_, last, done = answer.events
    event = json.loads(last)
    assert (event["completion"], event["stop_reason"]) == (" Hi" * count, "stop_sequence")
    assert done == b"[DONE]"
    assert endings(log) == ["ended=complete"]


@pytest.mark.parametrize("moment", UP_TO_BEGUN, ids=lambda at: at.name)
async def test_what_outlasts_a_drain_is_told_so(
    log: pytest.LogCaptureFixture, moment: Moment, anyio_backend: object
) -> None:
    del anyio_backend
    there = asyncio.Event()
    there.set()
    at = asyncio.Semaphore(0)

    async def rests(side: Side) -> None:
        at.release()
        assert await side.rest() == b""

    message = "the proxy is shutting down"
    async with new_proxy() as proxy, AsyncExitStack() as stack:
        async with proxy.nothing_left():
            clients = []
            got = []
            for exchange in EXCHANGES:
                proxy.upstream.scripts.append(scripted(exchange, moment, there, rests))
                client = await stack.enter_async_context(await proxy.client(exchange.request))
                known = exchange.seen(moment)
                got.append(await client.until(known) if known else b"")
                async with asyncio.timeout(PATIENCE):
                    await at.acquire()
                clients.append(client)
            await until(lambda: len(proxy.app.exchanges) == len(EXCHANGES))
            proxy.app.drain()
            for number, client in enumerate(clients):
                got[number] += await client.rest()
                await client.__aexit__()
        for exchange, answer in zip(EXCHANGES, got, strict=True):
            if exchange is BYTES and moment >= Moment.HEAD and answer.startswith(b"HTTP/1.1 200"):
                check_cut(answer)
            elif exchange.streams and moment is Moment.BEGUN:
                check_finished(answer, "overloaded_error", message)
            else:
                check_refused(answer, 503, "overloaded_error", message)
    assert len(endings(log)) == len(EXCHANGES)
    assert {line.partition(" error")[0] for line in endings(log)} == {"ended=drained"}
