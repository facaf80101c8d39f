"""Odd heads and failures: what the client is told of them, and what the log is not."""

from __future__ import annotations

import pytest

from exchanges.harness import Exchanges, Gate, proxy_to
from support import STREAM_HEAD, Side, chunk, completion, connect, old_request

pytestmark = pytest.mark.anyio


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


async def test_the_log_tells_that_an_upstream_refused_what_passes_through(log: Exchanges) -> None:
    gate = Gate(b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n")
    async with proxy_to(gate.play) as (_, url), await connect(url) as client:
        await client.say(b"GET /v1/files HTTP/1.1\r\nhost: proxy\r\n\r\n")
        await client.head()
        assert 'ended="upstream refused"' in await log.line()
