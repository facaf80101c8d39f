"""Clients that leave, or are sent away: it is noticed at once, and leaves no garbage."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref

import pytest
from starlette.types import Receive, Scope, Send

from door.harness import CHUNKED, COMPLETE, GET, POST, Upstream, door, serving
from proxy.connection import intake, protocol, terms
from proxy.connection.protocol import Protocol
from proxy.exchange.extensions import CONNECTION
from support import PATIENCE, chunk, happened, old_request

pytestmark = pytest.mark.anyio


async def test_a_client_that_leaves_is_noticed_though_requests_wait_behind() -> None:
    upstream = Upstream(open=False)
    async with door(upstream) as client:
        await client.say((GET + b"\r\n") * terms.PIPELINED)
        await happened(upstream.reached)
        client.writer.close()
        await happened(upstream.left)


async def test_a_client_that_leaves_is_noticed_though_the_last_of_its_body_was_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Reading was paused for it, and whoever has all of a body asks for no more."""
    monkeypatch.setattr("uvicorn.protocols.http.httptools_impl.HIGH_WATER_LIMIT", 8 << 10)
    monkeypatch.setattr(intake, "SLICE", PATIENCE)  # all that arrives together is read together
    upstream = Upstream(open=False)
    async with door(upstream) as client:
        head, _, body = old_request(prompt="x" * (32 << 10)).partition(b"\r\n\r\n")
        await client.say(head + b"\r\nexpect: 100-continue\r\n\r\n")
        await client.until(b" 100 Continue\r\n\r\n")  # now the body is waited for
        await client.say(body)
        await happened(upstream.reached)
        client.writer.close()
        await happened(upstream.left)


@pytest.mark.parametrize(
    "behind",
    [(GET + b"\r\n") * terms.PIPELINED + GET, COMPLETE + CHUNKED + b"no chunk\r\n", GET],
    ids=["waiting", "refused", "begun"],
)
async def test_a_client_that_leaves_requests_behind_is_no_fault_and_leaves_no_garbage(
    caplog: pytest.LogCaptureFixture, behind: bytes
) -> None:
    reached, over, freed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        left = asyncio.Event()
        connection = scope["extensions"][CONNECTION]
        weakref.finalize(connection, freed.set)
        connection.when_left(lambda _: left.set())
        del connection
        reached.set()
        await happened(left)
        over.set()

    gc.disable()
    try:
        async with serving(application) as client:
            await client.say((GET.replace(b"GET", b"HEAD") + b"\r\n") * 3)
            for _ in range(3):
                await client.head()
            await client.say(GET + b"\r\n" + behind)
            await happened(reached)
            client.writer.close()
            await happened(over)
            await happened(freed)
    finally:
        gc.enable()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    "refused",
    [GET + b"x: a\r\n" * terms.FIELDS + b"\r\n", GET.replace(b"GET", b"TRACE") + b"\r\n"],
    ids=["too many fields", "not served"],
)
async def test_a_refused_client_leaves_no_garbage(refused: bytes) -> None:
    """It would keep all that was sent along with what is refused."""
    freed = asyncio.Event()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        weakref.finalize(scope["extensions"][CONNECTION], freed.set)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    gc.disable()
    try:
        async with serving(application) as client:
            await client.say(GET + b"\r\n" + refused)
            assert b"connection: close" in await client.rest()
            client.writer.close()
            await happened(freed)
    finally:
        gc.enable()


async def test_an_answer_that_nobody_takes_leaves_no_garbage_of_the_requests_behind_it() -> None:
    """They would keep all that was sent with them."""
    freed = asyncio.Event()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        connection = scope["extensions"][CONNECTION]
        weakref.finalize(connection, freed.set)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        connection.transport.abort()  # as a write does that fails
        del connection
        await send({"type": "http.response.body", "body": b""})

    gc.disable()
    try:
        async with serving(application) as client:
            await client.say((GET + b"\r\n") * 3)
            await happened(freed)
    finally:
        gc.enable()


async def test_whoever_reads_a_body_that_is_refused_is_told_so_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An application that is not the proxy knows of no other notice."""
    monkeypatch.setattr(protocol, "LINGER", 2 * PATIENCE)
    reads: asyncio.Queue[str] = asyncio.Queue()

    async def application(_: Scope, receive: Receive, __: Send) -> None:
        while (told := await receive())["type"] == "http.request":
            reads.put_nowait(told["type"])
        reads.put_nowait(told["type"])

    async with serving(application) as client:
        await client.say(COMPLETE + CHUNKED + chunk(b"so far"))
        async with asyncio.timeout(PATIENCE):
            assert await reads.get() == "http.request"
        await client.say(b"no chunk\r\n")
        async with asyncio.timeout(PATIENCE):
            assert await reads.get() == "http.disconnect"


async def test_a_fault_of_ours_at_a_request_leaves_no_garbage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would keep all that was sent."""
    freed = asyncio.Event()
    loop = asyncio.get_running_loop()
    told: list[type] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        weakref.finalize(scope["extensions"][CONNECTION], freed.set)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def fault(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Protocol, "on_body", fault)
    loop.set_exception_handler(lambda _, context: told.append(type(context["exception"])))
    gc.disable()
    try:
        async with serving(application) as client:
            await client.say(GET + b"\r\n")
            await client.head()
            await client.say(POST + b"content-length: 9\r\n\r\nx")
            await happened(freed)
    finally:
        gc.enable()
        loop.set_exception_handler(None)
    assert told == [MemoryError]
