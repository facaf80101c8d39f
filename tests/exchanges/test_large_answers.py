"""Answers that are read whole: so much of them is kept, whatever they unpack to, and no more."""

from __future__ import annotations

import gzip
import json

import pytest

from exchanges.harness import proxy_to
from proxy.exchange.exchange import ANSWER_LIMIT, ERROR_LIMIT
from support import Side, connect, old_request

pytestmark = pytest.mark.anyio


async def told(status: bytes, body: bytes, *, packed: bool) -> tuple[bytes, str]:
    """The head and the message of the error that a client gets for an upstream's answer."""
    body = gzip.compress(body) if packed else body
    coding = b"content-encoding: gzip\r\n" if packed else b""
    length = b"content-length: %d\r\n\r\n" % len(body)
    answer = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\n" % status + coding + length + body

    async def play(side: Side) -> None:
        await side.request()
        await side.say(answer)

    async with proxy_to(play) as (_, url), await connect(url) as client:
        await client.say(old_request(stream=False))
        head = await client.head()
        return head, json.loads(await client.until(b"}}"))["error"]["message"]


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
async def test_an_answer_that_is_too_large_is_none(*, packed: bool) -> None:
    completion = b'{"completion":" Hi","stop_reason":"stop_sequence"}'
    head, message = await told(b"200 OK", completion + b" " * ANSWER_LIMIT, packed=packed)
    assert head.startswith(b"HTTP/1.1 502 ")
    assert message == f"upstream's answer is larger than {ANSWER_LIMIT} bytes"


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
async def test_of_an_error_that_is_too_large_the_status_is_told(*, packed: bool) -> None:
    error = b'{"type":"error","error":{"type":"overloaded_error","message":"No"}}'
    head, message = await told(b"529 No", error + b" " * ERROR_LIMIT, packed=packed)
    assert head.startswith(b"HTTP/1.1 529 ")
    assert message == "upstream answered 529"
