"""Bodies of requests: they take no more memory than they must, and a part of one is none."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from unittest.mock import AsyncMock

import pytest
from starlette.types import Message

from proxy.exchange.client import Client
from proxy.exchange.exchanges import OpenExchanges
from proxy.exchange.extensions import ClientLeft
from proxy.exchange.relay import Relay
from proxy.upstream.upstream import Upstream
from support import Side, happened, raw_upstream, settings

pytestmark = pytest.mark.anyio


async def test_a_body_in_drips_takes_no_more_memory_than_it_is_long() -> None:
    """Two bytes are some fifty more where each part is kept by itself."""
    left = iter(range(10_000, 0, -1))

    async def receive() -> Message:
        number = next(left)
        return {"type": "http.request", "body": b"%02d" % (number % 100), "more_body": number > 1}

    scope = {"method": "POST", "raw_path": b"/", "query_string": b""}
    client = Client(
        {**scope, "headers": [(b"transfer-encoding", b"chunked")]}, receive, AsyncMock()
    )
    tracemalloc.start()
    try:
        assert len(await client.body(1 << 20)) == 20_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5 * 20_000


@pytest.mark.parametrize("bridge", [False, True], ids=["native", "bridge"])
async def test_a_large_request_is_held_once_while_its_answer_is_waited_for(*, bridge: bool) -> None:
    """Once more would be too much for as many as config/kubernetes lets in at a time."""
    size = 8 << 20
    reached, may_answer = asyncio.Event(), asyncio.Event()

    async def play(side: Side) -> None:
        await side.head()
        left = size
        while left > 0:  # what is beside the prompt may come later, or never
            left -= len(await side.reader.read(1 << 20))
        reached.set()
        await may_answer.wait()

    async def receive() -> Message:
        prompt = "\n\nHuman: " + "x" * size + "\n\nAssistant:"
        asked = {"model": "claude-v1", "prompt": prompt, "max_tokens_to_sample": 9}
        return {"type": "http.request", "body": json.dumps(asked).encode(), "more_body": False}

    async with raw_upstream(play) as base:
        config = settings(base, bridge=bridge)
        api = Upstream(config.upstreams["api"])
        relay = Relay(config, {"api": api}, OpenExchanges(1), lambda _: None)
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/complete",
            "raw_path": b"/v1/complete",
            "query_string": b"",
            "headers": [(b"host", b"p"), (b"transfer-encoding", b"chunked")],
        }
        tracemalloc.start()
        try:
            asking = asyncio.create_task(relay(scope, receive, AsyncMock()))
            await happened(reached)
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        may_answer.set()
        await asking
        api.close()
    assert size < held < 1.5 * size


async def test_a_body_that_another_server_ends_too_early_is_none() -> None:
    scope = {"method": "POST", "raw_path": b"/", "query_string": b""}
    receive = AsyncMock(return_value={"type": "http.request", "body": b"half", "more_body": False})
    client = Client({**scope, "headers": [(b"content-length", b"8")]}, receive, AsyncMock())
    with pytest.raises(ClientLeft):
        await client.body(1 << 20)
