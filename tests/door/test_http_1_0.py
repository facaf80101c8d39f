"""Clients of HTTP/1.0: only the end of their connection tells them where an answer ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable

import pytest
from starlette.types import Receive, Scope, Send

from door.harness import GET, POST, Upstream, at_the_door, door, serving
from proxy.exchange.extensions import CONNECTION
from support import LAST, STREAM_HEAD, Side, chunk, completion, happened, old_request

pytestmark = pytest.mark.anyio


async def test_a_client_of_http_1_0_gets_a_body_that_ends_with_its_connection() -> None:
    stream = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    async with door(Upstream(stream + chunk(b"to the ") + chunk(b"end") + chunk(b""))) as client:
        await client.say(GET.replace(b"1.1", b"1.0") + b"connection: keep-alive\r\n\r\n")
        head, _, body = (await client.rest()).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert b"\r\nconnection: close" in head
    assert body == b"to the end"


async def test_parts_are_written_together_to_a_client_of_http_1_0() -> None:
    """It cannot tell them apart, and a message for each would cost twenty times the time."""
    together: list[bool] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        together.append(scope["extensions"][CONNECTION].write([b"to ", b"the ", b"end"]))
        await send({"type": "http.response.body", "body": b""})

    async with serving(application) as client:
        await client.say(GET.replace(b"1.1", b"1.0") + b"\r\n")
        assert (await client.rest()).endswith(b"\r\n\r\nto the end")
    assert together == [True]


async def test_two_who_write_at_once_to_a_slow_client_of_http_1_0_are_both_heard() -> None:
    waiting = asyncio.Event()

    async def application(_: Scope, receive: Receive, send: Send) -> None:
        def say(body: bytes) -> Awaitable[None]:
            return send({"type": "http.response.body", "body": body, "more_body": True})

        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await say(b"x" * (16 << 20))
        both = [asyncio.ensure_future(say(b"long" * 9)), asyncio.ensure_future(say(b"short"))]
        asyncio.get_running_loop().call_soon(waiting.set)
        await asyncio.gather(*both)
        await send({"type": "http.response.body", "body": b"end"})

    async with serving(application) as client:
        await client.say(GET.replace(b"1.1", b"1.0") + b"\r\n")
        await happened(waiting)
        assert (await client.rest()).endswith(b"x" + b"long" * 9 + b"shortend")


async def test_a_slow_client_of_http_1_0_that_leaves_is_no_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    waiting, over = asyncio.Event(), asyncio.Event()

    async def application(_: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        large = {"type": "http.response.body", "body": b"x" * (16 << 20), "more_body": True}
        await send(large)
        asyncio.get_running_loop().call_soon(waiting.set)
        try:
            await send({"type": "http.response.body", "body": b"end"})
        finally:
            over.set()

    async with serving(application) as client:
        await client.say(GET.replace(b"1.1", b"1.0") + b"\r\n")
        await happened(waiting)
        client.writer.transport.abort()
        await happened(over)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("before", [True, False])
async def test_what_a_client_of_http_1_0_has_not_taken_does_not_look_whole(before: bool) -> None:
    """It may be left just before the end, or while the end waits for it."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        leave = scope["extensions"][CONNECTION].transport.abort
        if before:
            leave()
        else:
            asyncio.get_running_loop().call_soon(leave)
        await send({"type": "http.response.body", "body": b"x" * (16 << 20)})

    async with serving(application) as client:
        await client.say(GET.replace(b"1.1", b"1.0") + b"\r\n")
        with pytest.raises(ConnectionResetError):
            await client.rest()


async def test_nor_does_little_of_it_that_nobody_would_wait_for() -> None:
    """Writers wait only while much is left to take."""
    waiting = asyncio.Event()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        connection = scope["extensions"][CONNECTION]
        while not connection.transport.get_write_buffer_size():
            await send({"type": "http.response.body", "body": b"x" * 9999, "more_body": True})
            for _ in range(9):  # in which the system takes it, as long as it has room
                await asyncio.sleep(0)
        assert not connection.flow.write_paused
        asyncio.get_running_loop().call_soon(connection.transport.abort)
        waiting.set()
        await send({"type": "http.response.body", "body": b""})

    async with serving(application) as client:
        await client.say(GET.replace(b"1.1", b"1.0") + b"\r\n")
        await happened(waiting)
        with pytest.raises(ConnectionResetError):
            await client.rest()


async def test_an_answer_to_http_1_0_that_breaks_off_does_not_look_whole() -> None:
    stream = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"

    async def play(side: Side) -> None:
        await side.request()
        await side.say(stream + chunk(b"to the "))

    async with at_the_door(play) as client:
        await client.say(GET.replace(b"1.1", b"1.0") + b"\r\n")
        with pytest.raises(ConnectionResetError):
            await client.rest()


async def test_a_client_of_http_1_0_is_told_the_head_of_a_stream_first() -> None:
    """Others get it together with the first event."""

    async def play(side: Side) -> None:
        await side.request()
        await side.say(STREAM_HEAD + completion(" Hi") + LAST + chunk(b""))

    async with at_the_door(play) as client:
        await client.say(old_request().replace(b"HTTP/1.1", b"HTTP/1.0"))
        head, _, body = (await client.rest()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert body.startswith(b"data: {")
    assert body.endswith(b"data: [DONE]\r\n\r\n")


async def test_a_client_of_http_1_0_is_told_a_length_that_is_known() -> None:
    async with door(Upstream()) as client:
        await client.say(GET.replace(b"1.1", b"1.0") + b"\r\n")
        head, _, body = (await client.rest()).partition(b"\r\n\r\n")
    assert b"\r\ncontent-length: 2\r\n" in head
    assert body == b"ok"


async def test_a_client_of_http_1_0_is_told_nothing_before_its_answer() -> None:
    async with door(Upstream()) as client:
        head = POST.replace(b"1.1", b"1.0") + b"expect: 100-continue\r\ncontent-length: 2\r\n\r\n"
        await client.say(head + b"hi")
        assert (await client.head()).startswith(b"HTTP/1.1 200 OK\r\n")
