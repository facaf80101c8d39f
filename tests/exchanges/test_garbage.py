"""What an exchange keeps in memory: no head once it streams, nothing once it has ended."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from exchanges.harness import Gate, proxy_to
from proxy.exchange.client import Client
from proxy.exchange.exchange import Exchange
from proxy.upstream.answer import Answer
from support import PATIENCE, STREAM_HEAD, Side, completion, connect, old_request

pytestmark = pytest.mark.anyio


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


@pytest.mark.parametrize("path", [b"/v1/complete", b"/v1/files"], ids=["translated", "passed"])
async def test_a_stream_keeps_no_head_in_memory(path: bytes) -> None:
    gate = Gate(STREAM_HEAD, completion(" Hi"))
    gc.collect()
    async with proxy_to(gate.play) as (_, url), await connect(url) as client:
        await client.say(old_request().replace(b"/v1/complete", path))
        await client.until(b"Hi")
        heads = [each for each in gc.get_objects() if isinstance(each, Client | Answer)]
        assert {type(each) for each in heads} == {Client, Answer}
        for each in heads:
            assert not each.fields
            assert not each.named
