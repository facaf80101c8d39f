"""Clients that leave: the call of the upstream ends at once, and its connection with it."""

from __future__ import annotations

import asyncio

import pytest

from exchanges.harness import Exchanges, Gate, proxy_to
from proxy.observe.record import Record
from support import LAST, PATIENCE, STREAM_HEAD, Side, answer_all, completion, connect, old_request

pytestmark = pytest.mark.anyio


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
