"""``Expect: 100-continue``: a client is asked for its body only while none of it has come."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Receive, Scope, Send

from door.harness import POST, Upstream, answer, door, serving
from support import happened

pytestmark = pytest.mark.anyio


async def test_blanks_behind_an_expectation_are_no_part_of_it() -> None:
    async with door(Upstream()) as client:
        await client.say(POST + b"expect: 100-continue \t\r\ncontent-length: 2\r\n\r\n")
        assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.say(b"hi")
        assert (await answer(client))[1] == b"ok"


@pytest.mark.parametrize(
    "sent",
    [b"content-length: 2\r\n\r\nhi", b"content-length: 0\r\n\r\n"],
    ids=["all of it", "all, which is nothing"],
)
async def test_nobody_is_asked_for_a_body_that_is_coming(sent: bytes) -> None:
    """HAProxy 2.6 cuts a stream where it reads the 100 along with the head behind it."""
    async with door(Upstream()) as client:
        await client.say(POST + b"expect: 100-continue\r\n" + sent)
        assert (await client.head()).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_nobody_is_asked_for_the_rest_of_a_body() -> None:
    asked = asyncio.Event()

    async def application(_: Scope, receive: Receive, send: Send) -> None:
        first = await receive()
        asked.set()
        rest = await receive()
        length = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": length})
        await send({"type": "http.response.body", "body": first["body"] + rest["body"]})

    async with serving(application) as client:
        await client.say(POST + b"expect: 100-continue\r\ncontent-length: 2\r\n\r\nh")
        await happened(asked)
        await client.say(b"i")
        head, body = await answer(client)
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert body == b"hi"
